"""Fuzzing guided by coverage, for a few seconds each: long runs are for whoever changes what they read."""

import importlib.util
import io
import os
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from streamer.configuration import to_yaml
from streamer.settings import StreamSettings
from telme.bundle import COMPACT, MANIFEST

FUZZ = Path(__file__).parents[1] / "fuzz"
SECONDS = 5
MEGABYTES = 2048

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this system"),
]


def sound() -> bytes:
    """A tenth of a second of a tone, as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setparams((1, 2, 8000, 0, "NONE", ""))
        written.writeframes(bytes([0, 32, 0, 224]) * 400)
    return file.getvalue()


SEEDS = {
    "settings_file.py": to_yaml(StreamSettings()).encode(),
    "media.py": sound(),
    "manifest.py": (COMPACT / MANIFEST).read_bytes(),
    "topics.py": b'{"text": "<mask> </s> <s1>", "speaker": "robot", "transaction": 1}',
}


def test_every_harness_is_run() -> None:
    assert SEEDS.keys() == {file.name for file in FUZZ.glob("*.py")}


@pytest.mark.parametrize("harness", SEEDS)
def test_nothing_breaks(harness: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_bytes(SEEDS[harness])
    limits = (f"-max_total_time={SECONDS}", f"-rss_limit_mb={MEGABYTES}", "-timeout=20", "-max_len=20000")
    ended = subprocess.run(
        [sys.executable, FUZZ / harness, corpus, *limits],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(FUZZ.parent)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
