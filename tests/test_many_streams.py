"""The bench of many streams: a short one for real."""

import subprocess
import sys
from pathlib import Path

import pytest
from streams import environment

BENCH = Path(__file__).parents[1] / "bench" / "many_streams.py"


@pytest.mark.slow
@pytest.mark.corpora
def test_a_short_run_counts_the_events_of_all_streams(corpora: Path) -> None:
    short = ["--streams", "1", "2", "--minutes", "0.2", "--asr", "none"]
    done = subprocess.run(
        [sys.executable, BENCH, "--corpora", corpora, *short],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    assert [int(row[0]) for row in rows] == [1, 2]
    assert int(rows[1][2]) >= int(rows[0][2]) >= 2
    assert [int(row[-2]) for row in rows] == [0, 0], "lost"
