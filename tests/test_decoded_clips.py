"""Whoever needs a run's clips after training finds them where the configuration keeps them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from telme.training import cli, decoded_clips

MISTAKE = "name: x\nteacher: {backbone: b, schedule: {epochs: 1, batch: 1, learning_rate: 1}}\n"


def trained(folder: Path, settings: str = "") -> Path:
    """The run folder of a training that ends at the missing corpus, begun in `folder`."""
    (folder / "config.yaml").write_text(MISTAKE + settings)
    assert cli.main([str(folder / "config.yaml"), "--stage", "teacher", "--output", "run"]) == 2
    return folder / "run"


def found(run: Path) -> Path:
    """The folder that a clip of the run is kept in."""
    source = run / "clip.wav"
    source.touch()
    return decoded_clips.kept(run).fetch(source, "silence", lambda: np.zeros(1)).parent


def test_clips_are_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = trained(tmp_path, "decoded: clips")
    (tmp_path / "clips").mkdir()
    monkeypatch.chdir("/")
    assert found(run) == tmp_path / "clips"


def test_the_last_configuration_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert found(trained(tmp_path)) == tmp_path / "run" / "decoded"
    (tmp_path / "clips").mkdir()
    assert found(trained(tmp_path, "decoded: clips")) == tmp_path / "clips"
    assert found(trained(tmp_path)) == tmp_path / "run" / "decoded"


def test_a_run_from_another_machine_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = trained(tmp_path, "decoded: clips")
    assert not (tmp_path / "clips").exists()
    moved = Path(shutil.move(run, tmp_path / "moved"))
    assert found(moved) == moved / "decoded"
