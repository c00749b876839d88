"""The soak bench: what it concludes from samples, and a short one for real."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soak_report
from soak_report import Delivered, Findings, Sample, trend
from streams import environment

SOAK = Path(__file__).parents[1] / "bench" / "soak.py"
WARM_UP_S = 600.0
STATUS = {"source": {"lost_samples": 0, "overruns": 0}, "pipeline": {"dropped_utterances": 0}, "paused": False}


def findings(
    mb_per_h: float = 0.0,
    ms_per_h: float = 0.0,
    new_files_per_h: float = 0.0,
    status: dict[str, Any] = STATUS,
    cuts: int = 0,
    exit_status: int = 0,
) -> Findings:
    """Of an hour whose memory grows fast while it warms up and then as given, with noise."""
    rng = np.random.default_rng(1)
    times_s = np.arange(0, 3600, 5.0)
    hours = np.maximum(0, times_s - WARM_UP_S) / 3600
    own_mb = 300 + np.minimum(times_s, WARM_UP_S) / 10 + mb_per_h * hours + rng.normal(0, 0.3, len(times_s))
    samples = [
        Sample(time_s, mb + 90, mb, 14, 17 + int(new_files_per_h * hour), time_s / 5, status)
        for time_s, mb, hour in zip(times_s, own_mb, hours, strict=True)
    ]
    total_ms = 1000 + rng.normal(0, 80, len(times_s))
    events = [
        Delivered(time_s, "final", ms, ms + 30 + ms_per_h * hour)
        for time_s, ms, hour in zip(times_s, total_ms, hours, strict=True)
    ]
    return soak_report.examine(samples, events, WARM_UP_S, cuts, exit_status)


def test_a_calm_hour_shows_no_problem() -> None:
    calm = findings()
    assert calm.problems == []
    assert calm.own.low <= 0 <= calm.own.high
    assert calm.cores == pytest.approx(0.2)
    assert calm.total_ms[0] == pytest.approx(1000, abs=20)


@pytest.mark.parametrize(
    ("grown", "problem"),
    [
        (findings(mb_per_h=3.0), "memory grows: "),
        (findings(ms_per_h=400.0), "the delay grows: "),
        (findings(new_files_per_h=12.0), "open files grew from 17 to 26"),
        (findings(status=STATUS | {"mqtt": {"dropped": 2}}), "mqtt counts dropped: 2"),
        (findings(status=STATUS | {"source": {"lost_samples": 9}}), "9 samples of sound were lost"),
        (findings(exit_status=1), "exit status 1"),
    ],
)
def test_what_grows_is_lost_or_breaks_is_named(grown: Findings, problem: str) -> None:
    (said,) = grown.problems
    assert problem in said


def test_samples_lost_while_the_source_was_cut_are_no_problem() -> None:
    assert findings(status=STATUS | {"source": {"lost_samples": 9}}, cuts=1).problems == []


def test_intervals_of_a_slope_hold_what_they_promise() -> None:
    """In 19 of 20 cases the true slope lies within; the noise is that of memory: steps that stay for minutes."""
    rng = np.random.default_rng(2)
    times_s = np.arange(0, 3000, 5.0)
    held = 0
    for _ in range(200):
        noise = np.repeat(rng.normal(0, 1, 60), 10)
        found = trend(times_s, 2.0 * times_s / 3600 + noise)
        held += found.low <= 2.0 <= found.high
    assert held >= 180


def test_memory_that_is_given_back_for_a_while_is_no_trend() -> None:
    times_s = np.arange(0, 3600, 5.0)
    steady = 300 + 0.5 * times_s / 3600
    dips = np.where((times_s > 400) & (times_s < 500) | (times_s > 3100) & (times_s < 3150), 14.0, 0.0)
    found = trend(times_s, steady - dips)
    assert 0.4 < found.low <= found.high < 0.6


def test_too_few_samples_make_no_trend() -> None:
    assert np.isinf(trend(np.array([0.0, 1.0]), np.array([1.0, 2.0])).high)


@pytest.mark.slow
@pytest.mark.corpora
def test_a_short_soak_leaves_a_report_and_leaks_neither_threads_nor_files(corpora: Path, tmp_path: Path) -> None:
    command = [sys.executable, SOAK, "--corpora", corpora, "--output", tmp_path]
    short = ["--minutes", "1", "--clips", "8", "--every-s", "1", "--cut-every-s", "25"]
    done = subprocess.run([*command, *short], capture_output=True, text=True, timeout=240, env=environment())
    report = (tmp_path / "report.md").read_text()
    assert done.returncode == 0, done.stderr + report
    assert "Nothing leaked, was lost or broke." in report
    assert (tmp_path / "soak.png").stat().st_size > 10_000
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len(samples) >= 20
    assert samples[-1]["status"]["source"]["reopened"] == 2
    assert len(events) >= 4
