"""A configuration that is wrong is refused in one sentence, with exit code 2."""

from pathlib import Path

import pytest

from telme.training import cli
from telme.training.config import load
from telme.training.errors import TrainingError

ROOT = Path(__file__).parents[1]
SCHEDULE = "schedule: {epochs: 1, batch: 4, learning_rate: 0.001}"


def _write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


SHIPPED = [path for path in sorted(ROOT.glob("configs/*.yaml")) if "\nteacher:" in path.read_text()]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_configurations_that_ship_are_valid(path: Path) -> None:
    assert load(path).name == path.stem


def test_the_run_folder_is_named_after_the_configuration(tmp_path: Path) -> None:
    assert load(_write(tmp_path, "name: small")).folder == Path("runs/small")
    assert load(_write(tmp_path, "name: small\noutput: /elsewhere")).folder == Path("/elsewhere")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: x\nlearning: 1", "learning: Extra inputs are not permitted"),
        (
            "name: x\nteacher: {backbone: b, schedule: {epochs: 0, batch: 1, learning_rate: 1}}",
            "teacher.schedule.epochs",
        ),
        ("name: x\nteacher: {backbone: b}", "teacher.schedule: Field required"),
        (
            f"name: x\naudio: {{backbone: b, input: {{kind: waveform, max_s: 5, source_rate_hz: 22050}}, {SCHEDULE}}}",
            "audio.input: Value error, source_rate_hz = 22050 is for the evaluation of imported weights only",
        ),
        (
            "name: x\nvisual: {backbone: b, input: {kind: frames, size_px: 8, channels: 3, frames: 1, mean: [0, 0, 0], "
            f"std: [1, 1, 1], colours: bgr}}, {SCHEDULE}}}",
            "visual.input: Value error, colours = bgr is for the evaluation of imported weights only",
        ),
        ("- a list", "the whole file"),
        ("name: [", "is not YAML"),
        ("", "the whole file"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(TrainingError) as caught:
        load(_write(tmp_path, text))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "stage", "complaint"),
    [
        (None, "teacher", "give an existing file"),
        ("name: x", "teacher", "has no section `teacher`"),
        (f"name: x\nteacher: {{backbone: 'package:nowhere/model', {SCHEDULE}}}", "teacher", "train_sent_emo.csv"),
    ],
)
def test_the_command_says_what_to_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, stage: str, complaint: str
) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    assert cli.main([str(path), "--stage", stage, "--corpora", str(tmp_path), "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
