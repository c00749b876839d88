"""Ctrl-C in a training: one sentence, and what was learnt so far is gone on with."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from telme.corpora import fer2013
from telme.labels import FER2013
from telme.training.loop import STATE

ROOT = Path(__file__).parents[1]
EPOCHS = 10_000  # more than can pass before the signal
WAIT_S = 120.0


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    """A folder with fer2013/: 210 faces made of noise."""
    random = np.random.default_rng(0)
    faces, labels = random.integers(0, 256, (210, 48, 48), np.uint8), np.arange(210, dtype=np.uint8) % 7
    arrays = {"x_train": faces[:140], "y_train": labels[:140], "x_val": faces[140:], "y_val": labels[140:]}
    (tmp_path / "fer2013").mkdir()
    np.savez(tmp_path / "fer2013" / fer2013.FILE, classes=list(FER2013.to_meld), **arrays)
    return tmp_path


def command(corpora: Path, run: Path, stop_after: int | None) -> list[str]:
    settings = {
        "backbone": {"model_type": "face_cnn", "channels": 1, "stem": 8, "widths": [8, 16]},
        "vector": 8,
        "input": {"kind": "face_crops", "size_px": 16, "channels": 1, "frames": 4, "mean": [0.5], "std": [0.25]},
        "schedule": {"epochs": EPOCHS, "stop_after": stop_after, "keep": "last", "batch": 28, "learning_rate": 0.01},
    }
    config = corpora / "config.yaml"
    config.write_text(yaml.safe_dump({"name": "small", "visual": settings}))
    options = ["--stage", "visual", "--corpora", str(corpora), "--output", str(run)]
    return [sys.executable, "-m", "telme.training.cli", str(config), *options]


def train(corpora: Path, run: Path, stop_after: int | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(corpora, run, stop_after),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def finished(state: Path) -> int:
    """How many epochs a run's state holds."""
    with safe_open(state, framework="pt") as file:
        return len(json.loads(file.metadata()["state"])["history"])


@pytest.mark.slow
def test_ctrl_c_is_one_sentence_and_the_next_run_goes_on(corpora: Path) -> None:
    cut, whole = corpora / "cut", corpora / "whole"
    state = cut / "visual" / "fit" / STATE
    process = train(corpora, cut)
    while not state.exists():
        assert process.poll() is None
        sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert said == "telme-train: interrupted; run the same command again to continue after the last epoch.\n"
    epochs = finished(state)
    assert 0 < epochs < EPOCHS

    for run in (cut, whole):
        process = train(corpora, run, stop_after=epochs + 2)
        _, said = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, said
    assert finished(state) == epochs + 2
    one, other = (load_file(run / "visual" / "model.safetensors") for run in (cut, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
