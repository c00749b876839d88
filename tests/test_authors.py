"""Weights in the authors' format become a run whose parts answer as the authors' code does, or nothing at all."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from authors_release import Imported
from torch import Tensor

from export.cli import main
from export.releases import RELEASES
from telme.bundle import COMPACT, AudioSpec, Bundle, BundleError, FusionSpec, TextSpec, VisualSpec
from telme.corpora import waveforms
from telme.features.audio import AudioFeatures
from telme.features.video import VideoFeatures
from telme.models.audio import AudioDimensions, AudioStudent
from telme.models.fusion import ASF, FusionDimensions
from telme.models.teacher import Teacher, TeacherDimensions
from telme.models.visual import VisualDimensions, VisualStudent
from telme.runtime.recognizer import Recognizer
from telme.training import checkpoint

DATASETS = ("meld", "iemocap")
EXACT = 1e-5


@pytest.fixture(scope="module", params=DATASETS)
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    made = Imported(request.param, tmp_path_factory.mktemp(request.param))
    assert made.command() == 0
    return made


@torch.inference_mode()
def test_the_teacher_answers_as_theirs(imported: Imported) -> None:
    """Theirs is padded on the left and ours on the right: with positions counted from the first token that is one."""
    about, ours = checkpoint.load(imported.run / "text", Teacher, TeacherDimensions)
    assert about.labels == imported.theirs.release.labels
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(4, 200, (length,), generator=generator) for length in (9, 14, 5)]
    left, right, before, behind = (torch.zeros(3, 14, dtype=torch.long) for _ in range(4))
    left += 1  # the padding token's number
    right += 1
    for row, prompt in enumerate(prompts):
        left[row, 14 - len(prompt) :], before[row, 14 - len(prompt) :] = prompt, 1
        right[row, : len(prompt)], behind[row, : len(prompt)] = prompt, 1
    agree(ours(right, behind), imported.theirs.teacher(left, before))


@torch.inference_mode()
def test_the_audio_student_answers_as_theirs(imported: Imported) -> None:
    _, ours = checkpoint.load(imported.run / "audio", AudioStudent, AudioDimensions)
    samples = torch.randn(3, 900, generator=torch.Generator().manual_seed(2))
    agree(ours(samples, torch.ones(3, 900, dtype=torch.bool)), imported.theirs.audio(samples))


@torch.inference_mode()
def test_speech_is_prepared_as_theirs(imported: Imported) -> None:
    """22,050 Hz taken for 16,000, scaled as a whole, the tail kept, zeros in front that count as sound."""
    about, ours = checkpoint.load(imported.run / "audio", AudioStudent, AudioDimensions)
    assert isinstance(about.preprocessing, AudioSpec)
    recording = Path(__file__).parent / "data" / "jfk.flac"
    speech = waveforms.read(recording, about.preprocessing.source_rate_hz)
    stored, rate_hz = soundfile.read(recording, dtype="float32")
    assert rate_hz != 22050
    np.testing.assert_allclose(speech, soxr.resample(stored, rate_hz, 22050, quality="HQ"), atol=1e-6)

    clips = [speech[20000 : 20000 + length] for length in (500, 760, 1500)]
    kept = 800  # samples: the miniature's max_s times 16,000
    scaled = [((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7))[-kept:] for clip in clips]
    padded = np.stack([np.concatenate([np.zeros(kept - len(clip)), clip]) for clip in scaled]).astype(np.float32)
    features = AudioFeatures(about.preprocessing)
    batch = features.batch([item for clip in clips if (item := features.extract(clip)) is not None])
    np.testing.assert_allclose(batch.features, padded, atol=EXACT)
    agree(
        ours(torch.from_numpy(batch.features), torch.from_numpy(batch.mask)),
        imported.theirs.audio(torch.from_numpy(padded)),
    )


@torch.inference_mode()
@pytest.mark.parametrize("count", [3, 8, 9, 31])
def test_pictures_are_chosen_and_coloured_as_theirs(imported: Imported, count: int) -> None:
    """Of the frames numbered from 1 those that N // 8 divides, the first eight; BGR with ImageNet's RGB figures."""
    about, ours = checkpoint.load(imported.run / "visual", VisualStudent, VisualDimensions)
    assert isinstance(about.preprocessing, VisualSpec)
    rgb = np.random.default_rng(5).integers(0, 256, (count, 32, 32, 3), np.uint8)
    numbers = {3: [1, 2, 3, 3, 3, 3, 3, 3], 8: range(1, 9), 9: range(1, 9), 31: range(3, 25, 3)}[count]
    bgr = np.stack([rgb[number - 1][..., [2, 1, 0]] for number in numbers]) / 255
    pixels = ((bgr - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(0, 3, 1, 2)[None]

    features = VideoFeatures(about.preprocessing, None)
    prepared = [picture for frame in rgb if (picture := features.prepare(frame)) is not None]
    batch = features.batch([features.select(prepared)])
    agree(
        ours(torch.from_numpy(batch.frames), torch.from_numpy(batch.mask)),
        imported.theirs.video(torch.from_numpy(pixels.astype(np.float32))),
    )


@torch.inference_mode()
def test_the_visual_student_answers_as_theirs(imported: Imported) -> None:
    _, ours = checkpoint.load(imported.run / "visual", VisualStudent, VisualDimensions)
    frames = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    agree(ours(frames, torch.ones(2, 8)), imported.theirs.video(frames))


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 4, 10])
def test_the_fusion_answers_as_theirs(imported: Imported, count: int) -> None:
    """Four successive utterances attend to each other, and what is left over at the end does too."""
    _, ours = checkpoint.load(imported.run / "fusion", ASF, FusionDimensions)
    generator = torch.Generator().manual_seed(4)
    text, audio, visual = (torch.randn(count, 16, generator=generator) for _ in range(3))
    beta = imported.theirs.release.beta
    logits = ours(text, audio, visual, torch.ones(count), torch.ones(count), torch.full((count,), beta))
    first, second = (audio, visual) if imported.dataset == "meld" else (visual, audio)
    golden = imported.theirs.fused(*(vector.double().numpy() for vector in (text, first, second)))
    np.testing.assert_allclose(logits.numpy(), golden, atol=EXACT)


def agree(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for mine, golden in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, golden, atol=EXACT, rtol=0)


def test_the_run_says_how_inputs_are_made(imported: Imported) -> None:
    parts = {name: checkpoint.read(imported.run / name) for name in ("text", "audio", "visual", "fusion")}
    text, audio, visual, fusion = (part.preprocessing for part in parts.values())
    assert isinstance(text, TextSpec)
    assert (text.prompt, text.max_tokens, text.speaker_tokens[-1]) == ("string", 512, "<s9>")
    assert isinstance(audio, AudioSpec)
    assert (audio.source_rate_hz, audio.sample_rate_hz) == (22050, 16000)
    assert (audio.padding, audio.standardised) == ("left", "clip")
    assert isinstance(visual, VisualSpec)
    assert (visual.colours, visual.choice, visual.frames) == ("bgr", "multiples", 8)
    assert isinstance(fusion, FusionSpec)
    assert fusion.group == 4
    assert (fusion.beta, fusion.input_order[0]) == {"meld": (0.1, "audio"), "iemocap": (0.2, "visual")}[
        imported.dataset
    ]


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_real_sizes_are_the_authors(dataset: str) -> None:
    """Without memory for the weights: counts of the published encoders, and of the fusion (12.40 million)."""
    release = RELEASES[dataset]
    with torch.device("meta"):
        models = (
            Teacher(release.text),
            AudioStudent(release.audio),
            VisualStudent(release.visual),
            ASF(release.fusion),
        )
    text, audio, visual, fusion = (sum(value.numel() for value in model.parameters()) / 1e6 for model in models)
    assert text == pytest.approx(355.1, abs=0.1)
    assert audio == pytest.approx(93.2 + 0.6, abs=0.1)  # with the identity that stands for no layer
    assert visual == pytest.approx(121.3 + 0.6, abs=0.2)
    assert fusion == pytest.approx(12.40, abs=0.01)


def _change(file: str, change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def break_it(release: Path) -> None:
        state = torch.load(release / file, weights_only=True)
        change(state)
        torch.save(state, release / file)

    return break_it


class Harmful:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return print, ("this code must not run",)


AUDIO_FILE = "student_audio/total_student.bin"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing file": (lambda release: (release / "total_fusion.bin").unlink(), "total_fusion.bin"),
    "a missing tensor": (_change("teacher.bin", lambda state: state.pop("W.bias")), "W.bias"),
    "a tensor too many": (_change(AUDIO_FILE, lambda state: state.update({"W2.bias": torch.ones(3)})), "W2.bias"),
    "another shape": (_change("total_fusion.bin", lambda state: state.update({"W.bias": torch.ones(9)})), "W.bias"),
    "not a number": (_change(AUDIO_FILE, lambda state: state["W.weight"].fill_(torch.nan)), "W.weight"),
    "whole numbers": (_change(AUDIO_FILE, lambda state: state.update({"W.bias": state["W.bias"].long()})), "W.bias"),
    "half a file": (lambda release: (release / "teacher.bin").write_bytes(b"PK\3\4half"), "teacher.bin"),
    "no tensors": (lambda release: torch.save([1, 2], release / "teacher.bin"), "teacher.bin"),
    "harmful code": (
        lambda release: (release / "teacher.bin").write_bytes(pickle.dumps(Harmful(), protocol=2)),
        "teacher.bin",
    ),
    "harmful code in a zip": (lambda release: torch.save({"x": Harmful()}, release / "teacher.bin"), "teacher.bin"),
}


@pytest.fixture(scope="module")
def meld(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    return Imported("meld", tmp_path_factory.mktemp("broken"))


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_by_name(
    fault: str, meld: Imported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it, named = FAULTS[fault]
    break_it(meld.theirs.save(tmp_path / "release"))
    assert meld.command(tmp_path / "release", tmp_path / "run") == 2
    said = capsys.readouterr()
    assert named in sentence(said.err)
    assert "must not run" not in said.out
    assert not (tmp_path / "run").exists()


def test_the_other_data_set_is_refused(imported: Imported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Imported(next(name for name in DATASETS if name != imported.dataset), tmp_path)
    assert other.command(imported.release) == 2
    assert "--dataset" in sentence(capsys.readouterr().err)


def test_another_tokenizer_is_refused(meld: Imported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = [str(meld.release), "--dataset", "meld", "--output", str(tmp_path / "run"), "--tokenizer"]
    assert main(["import-authors", *full, str(meld.tokenizer)]) == 2  # the real release reads 50,274 tokens
    assert "50274" in sentence(capsys.readouterr().err)
    assert main(["import-authors", *full, str(tmp_path)]) == 2
    assert "--tokenizer" in sentence(capsys.readouterr().err)


def test_a_folder_in_use_is_left_alone(meld: Imported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("important")
    assert meld.command(run=tmp_path) == 2
    assert "--output" in sentence(capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_disk_that_cannot_be_written_leaves_no_half_run(
    meld: Imported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = checkpoint.save_file

    def full_disk(tensors: dict[str, Tensor], path: Path) -> None:
        if path.parent.name == "fusion":
            raise OSError(28, "No space left on device")
        write(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    assert meld.command(run=tmp_path / "run") == 2
    assert "No space left" in sentence(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_an_imported_run_becomes_no_bundle(
    imported: Imported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(imported.run), "--output", str(tmp_path / "bundle")]) == 2
    assert "fusion.group = 4" in sentence(capsys.readouterr().err)


def test_the_live_system_refuses_groups() -> None:
    bundle = Bundle.open(COMPACT)
    fusion = bundle.manifest.fusion.model_copy(update={"group": 4})
    manifest = bundle.manifest.model_copy(update={"fusion": fusion})
    with pytest.raises(BundleError, match=r"fusion\.group = 4"):
        Recognizer.load(Bundle(bundle.folder, manifest, bundle.sha256))


def sentence(error: str) -> str:
    """The one sentence with which a command ends."""
    assert error.startswith("telme-export: ")
    assert error.strip().count("\n") == 0
    assert error.strip().endswith(".")
    return error
