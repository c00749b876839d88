"""telme-export reuse: parts of a bundle beside newly trained ones, in a run folder and in the next bundle."""

import shutil
from pathlib import Path

import pytest
import small_run
from export_command import refused
from test_fusion_stage import COMPACT, write_corpora

from export import bundle as exporter
from export.cli import main
from export.errors import ExportError
from export.reuse import ReusedEncoder
from export.trained import Trained
from telme.bundle import Bundle, sha256_of
from telme.models.audio import AudioDimensions, AudioStudent
from telme.models.fusion import ASF, FusionDimensions
from telme.training import checkpoint, config, fusion
from telme.training.config import FusionSettings, Schedule, TrainingConfig
from telme.training.encodings import AudioPart, TextPart
from telme.training.errors import TrainingError

pytestmark = pytest.mark.corpora

FINE = {"text": "fp32", "audio": "fp32", "visual": "fp32", "fusion": "fp32"}


@pytest.fixture(scope="module")
def old(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose weights are another run's than `small_run.write` makes by default."""
    run = small_run.write(tmp_path_factory.mktemp("runs") / "old", seed=7)
    folder = tmp_path_factory.mktemp("bundles") / "old"
    exporter.export(run, folder, corpora, precisions=FINE, items=4)
    return folder


@pytest.fixture
def run(old: Path, tmp_path: Path) -> Path:
    """A new run with the old bundle's students."""
    folder = small_run.write(tmp_path / "run")
    for part in ("audio", "visual"):
        shutil.rmtree(folder / part)
    assert main(["reuse", str(old), "--parts", "visual,audio", "--output", str(folder)]) == 0
    return folder


def test_the_new_bundle_holds_the_old_files_and_what_was_known_of_them(
    old: Path, run: Path, corpora: Path, tmp_path: Path
) -> None:
    exporter.export(run, tmp_path / "new", corpora, precisions={"text": "fp32", "fusion": "fp32"}, items=4)
    before, after = Bundle.open(old).manifest, Bundle.open(tmp_path / "new").manifest
    assert after.parts.audio == before.parts.audio
    assert after.parts.visual == before.parts.visual
    assert after.parts.text != before.parts.text
    assert after.audio == before.audio
    assert after.calibration.audio == before.calibration.audio
    assert after.training.scores == before.training.scores
    assert after.training.commit == before.training.commit
    assert after.end_to_end is not None
    assert after.end_to_end.max_abs_error < 1e-3


def test_the_run_s_reused_parts_answer_as_the_bundle_s(old: Path, run: Path) -> None:
    trained = Trained.read(run)
    assert trained.reused.keys() == {"audio", "visual"}
    for name, encoder in trained.reused.items():
        part = getattr(Bundle.open(old).manifest.parts, name)
        assert encoder.part == part
        assert (encoder.dimensions.vector, encoder.dimensions.labels) == (small_run.VECTOR[name], 7)
    part = AudioPart.trained(run / "audio")
    assert part.vector == small_run.VECTOR["audio"]
    assert part.size == part.vector + 7
    assert checkpoint.fingerprint(run / "audio") == sha256_of(old / "audio.onnx")


def test_a_fusion_is_trained_on_what_the_old_students_say(run: Path, tmp_path: Path) -> None:
    write_corpora(tmp_path / "corpora")
    shutil.rmtree(run / "fusion")
    settings = FusionSettings(heads=2, bf16_encoding=True, schedule=Schedule(epochs=1, batch=3, learning_rate=1e-3))
    audio = config.load(COMPACT).audio
    corpora = tmp_path / "corpora"
    fusion.train(TrainingConfig(name="small", output=run, corpora=corpora, audio=audio, fusion=settings))
    about, model = checkpoint.load(run / "fusion", ASF, FusionDimensions)
    assert model.dimensions == FusionDimensions(**small_run.VECTOR, labels=7, heads=2, dropout=0.2)
    assert about.made_from["audio/model.safetensors"] == checkpoint.fingerprint(run / "audio")
    assert {score.part for score in about.scores} == {"fusion", "students"}


def test_a_text_part_brings_its_tokenizer(old: Path, tmp_path: Path) -> None:
    assert main(["reuse", str(old), "--parts", "text", "--output", str(tmp_path / "run")]) == 0
    assert TextPart.trained(tmp_path / "run" / "text").vector == small_run.VECTOR["text"]


def test_rounded_weights_are_not_trained_further(run: Path) -> None:
    with pytest.raises(TrainingError, match=r"The audio part in .* was taken over from a bundle"):
        checkpoint.load(run / "audio", AudioStudent, AudioDimensions)


def test_a_damaged_file_is_one_sentence(run: Path) -> None:
    path = run / "audio" / "audio.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ExportError, match=r"The audio part of .* is damaged"):
        ReusedEncoder(run / "audio", checkpoint.read(run / "audio"))
    with pytest.raises(TrainingError, match=r"The audio part of .* is damaged"):
        AudioPart.trained(run / "audio")


def test_a_part_of_two_files_keeps_both(corpora: Path, tmp_path: Path) -> None:
    run = small_run.write(tmp_path / "old")
    exporter.export(run, tmp_path / "bundle", corpora, target="openvino", precisions=FINE, items=4)
    assert main(["reuse", str(tmp_path / "bundle"), "--parts", "audio", "--output", str(tmp_path / "run")]) == 0
    about = checkpoint.read(tmp_path / "run" / "audio")
    assert about.exported is not None
    assert about.exported.weights is not None
    assert ReusedEncoder(tmp_path / "run" / "audio", about).copy(tmp_path) == about.exported
    assert AudioPart.trained(tmp_path / "run" / "audio").vector == small_run.VECTOR["audio"]
    (tmp_path / "run" / "audio" / about.exported.weights.file).write_bytes(b"")
    with pytest.raises(TrainingError, match=r"The audio part of .* is damaged"):
        AudioPart.trained(tmp_path / "run" / "audio")


def test_what_cannot_be_is_one_sentence(
    old: Path, run: Path, corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = ["reuse", str(old), "--parts", "audio", "--output", str(run)]
    assert f"{run / 'audio'} exists; remove it, or choose another --output" in refused(capsys, *taken)
    other = ["reuse", str(old), "--parts", "text,fusion", "--output", str(tmp_path / "none")]
    assert "--parts cannot be 'fusion'; name some of text, audio, visual" in refused(capsys, *other)
    assert not (tmp_path / "none").exists()
    finer = [str(run), "--output", str(tmp_path / "new"), "--corpora", str(corpora), "--precision", "audio=fp16"]
    assert "taken over from a bundle and stays in fp32; leave it out of --precision" in refused(capsys, *finer)
