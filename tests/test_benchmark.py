"""`telme-bench`: what it times, what it compares, and what it makes of mistakes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_run
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from export import benchmark, parity
from export import bundle as exporter
from export.benchmark import Benchmark, cases
from export.benchmark_cli import AUTHORS_STYLE, COMPILE, EAGER, main
from export.benchmark_report import CHART_PX
from export.eager import GPU, AuthorsStyle, place_of, pytorch
from export.gpu import QUERY, the_gpu
from export.material import Material, dialogue
from export.torch_model import CPU, Place
from export.trained import Trained
from telme.bundle import COMPACT, Bundle
from telme.corpora import authors_media
from telme.features.text import Prompter
from telme.runtime.recognizer import Recognizer

CLIP = Path(__file__).parents[1] / "demo" / "conversation.mp4"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="session")
def small(run: Path, corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the run."""
    folder = tmp_path_factory.mktemp("bundles") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "demand", lambda *_: None)
        exporter.export(run, folder, corpora)
    return folder


@pytest.fixture(scope="session")
def clip() -> Material:
    return Material.read(CLIP, 8)


@pytest.fixture(scope="session")
def prompter(run: Path) -> Prompter:
    trained = Trained.read(run)
    return Prompter(trained.specifications.text, trained.tokenizer)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The sentence with which the command ends."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("telme-bench: ")
    assert captured.out == ""
    return captured.err.splitlines()[-1]


def test_the_shipped_bundle_is_timed_at_several_sizes() -> None:
    command = [sys.executable, "-m", "export.benchmark_cli", "--repeats", "2", "--json", "--media", str(CLIP)]
    process = subprocess.run(command, capture_output=True, check=True, timeout=120)
    result = Benchmark.model_validate_json(process.stdout)
    manifest = Bundle.open(COMPACT).manifest
    assert result.contenders == (manifest.name,)
    sizes = [(row.part, row.size) for row in result.rows]
    parts = {"text", "audio", "visual", "frame preparation", "fusion", "whole utterance"}
    assert parts | {"whole utterance, encoders at once"} == {part for part, _ in sizes}
    assert {("audio", "1 s"), ("audio", "8 s"), ("visual", "1 frame"), ("visual", "8 frames")} <= set(sizes)
    assert max(int(size.split()[0]) for part, size in sizes if part == "text") > manifest.text.max_tokens - 4
    assert all(0 < time.median_ms <= time.p95_ms for row in result.rows for time in row.by.values())
    assert [one.batch for one in result.throughput] == [1, 2, 4, 8, 16, 32]
    assert result.resident_mb["before"] < result.resident_mb["loaded and warm"]


@pytest.mark.corpora
def test_pytorch_and_the_released_way_are_timed_in_the_same_run(small: Path, run: Path, tmp_path: Path) -> None:
    command = [small, "--repeats", "2", "--media", CLIP, "--against", AUTHORS_STYLE, "--run", run, "--report", tmp_path]
    assert main([str(argument) for argument in command]) == 0
    page, figures, chart = (next(tmp_path.glob(f"*-small.{kind}")) for kind in ("md", "json", "png"))
    result = Benchmark.model_validate(json.loads(figures.read_text()))
    assert result.contenders == ("small", EAGER, AUTHORS_STYLE)
    assert result.pytorch == "cpu, float32"
    assert "PyTorch computes on cpu, float32." in page.read_text()
    by_part = {row.part: row for row in result.rows}
    assert set(by_part["clip"].by) == {"small", AUTHORS_STYLE}
    assert set(by_part["frame preparation"].by) == {"small"}
    assert set(by_part["whole utterance, encoders at once"].by) == {"small"}
    assert all((row.gflop or 0) > 0 for row in result.rows if row.part in ("text", "audio", "visual", "fusion"))
    text = [row.gflop or 0 for row in result.rows if row.part == "text"]
    assert text == sorted(text)
    assert result.host.peak_gflops is not None
    assert "times faster" in page.read_text()
    assert chart.name in page.read_text()
    assert Image.open(chart).size == CHART_PX


@pytest.mark.corpora
def test_all_contenders_answer_alike(small: Path, run: Path, clip: Material, prompter: Prompter) -> None:
    recognizer = Recognizer.load(small)
    reference = pytorch(Trained.read(run), recognizer.bundle, threads=1)
    whole = next(
        case for case in cases({"small": recognizer, EAGER: reference}, clip) if case.part == "whole utterance"
    )
    (exported,), (trained,) = whole.work["small"](), whole.work[EAGER]()
    assert list(trained.scores.values()) == pytest.approx(list(exported.scores.values()), abs=0.02)
    alone = reference.encode_text(dialogue(40, prompter))
    assert alone is not None
    for longest in (0, 64):
        padded = AuthorsStyle(Trained.read(run), reference).read(dialogue(40, prompter), longest)
        np.testing.assert_allclose(padded.vector, alone.vector, atol=1e-5)


@pytest.mark.slow
@pytest.mark.corpora
def test_compiled_by_pytorch_it_is_the_same_model(small: Path, run: Path, prompter: Prompter) -> None:
    trained, bundle = Trained.read(run), Bundle.open(small)
    eager, compiled = (pytorch(trained, bundle, threads=1, place=Place(compiled=way)) for way in (False, True))
    for tokens in (16, 40):
        plain, other = (one.encode_text(dialogue(tokens, prompter)) for one in (eager, compiled))
        assert plain is not None
        assert other is not None
        np.testing.assert_allclose(other.vector, plain.vector, atol=1e-4)


@pytest.mark.slow
@pytest.mark.corpora
def test_torch_compile_is_timed_beside_eager(
    small: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sizes, only in (("TOKENS", 16), ("SECONDS", 2.0), ("FRAMES", 4), ("BATCHES", 1)):
        monkeypatch.setattr(benchmark, sizes, (only,))
    command = [small, "--repeats", "1", "--media", CLIP, "--against", EAGER, COMPILE, "--run", run]
    assert main([str(argument) for argument in (*command, "--report", tmp_path)]) == 0
    result = Benchmark.model_validate_json(next(tmp_path.glob("*-small.json")).read_text())
    assert result.contenders == ("small", EAGER, COMPILE)
    whole = next(row for row in result.rows if row.part == "whole utterance")
    assert set(whole.by) == {"small", EAGER, COMPILE}


@pytest.mark.corpora
def test_without_a_compiler_torch_compile_is_refused(
    small: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refused(capsys, small, "--media", CLIP, "--against", COMPILE, "--run", run, "--repeats", "1")
    assert "needs a C++ compiler" in message


@pytest.mark.corpora
def test_pytorch_computes_where_the_bundle_does(small: Path) -> None:
    """Half precision on a GPU, which the tests have none of: on the CPU, the same rounding."""
    bundle = Bundle.open(small)
    assert place_of(bundle) == CPU
    parts = bundle.manifest.parts
    engine = parts.text.model_copy(update={"backend": "tensorrt"})
    manifest = bundle.manifest.model_copy(update={"parts": parts.model_copy(update={"text": engine})})
    assert place_of(Bundle(bundle.folder, manifest, bundle.sha256)) == GPU


@pytest.mark.corpora
def test_in_half_precision_pytorch_answers_nearly_alike(small: Path, run: Path, clip: Material) -> None:
    trained, bundle = Trained.read(run), Bundle.open(small)
    half, whole = (
        pytorch(trained, bundle, threads=1, place=Place(dtype=dtype)) for dtype in (torch.float16, torch.float32)
    )
    sound = clip.sound(2.0)
    rounded, exact = half.encode_audio(sound), whole.encode_audio(sound)
    assert rounded is not None
    assert exact is not None
    assert 0 < np.abs(rounded.vector - exact.vector).max() < 0.05
    assert next(trained.audio.parameters()).dtype is torch.float32


def test_the_gpu_and_its_clocks_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program that says what nvidia-smi says, on a server, and on a board whose driver does not tell of clocks."""
    assert the_gpu() is None or the_gpu().driver
    told = tmp_path / "told"
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {told}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told.write_text("NVIDIA H100 80GB HBM3, 570.86.15, 81559, 345, 1980, 2619, 2619\nanother one\n")
    server = the_gpu()
    assert server is not None
    assert (server.name, server.driver, server.sm_mhz, server.sm_max_mhz) == (
        "NVIDIA H100 80GB HBM3",
        "570.86.15",
        345,
        1980,
    )
    assert f"--query-gpu={','.join(QUERY)}" in (tmp_path / "asked").read_text()
    told.write_text("Orin (nvgpu), 540.4.0, [N/A], [N/A], [N/A], [N/A], [N/A]\n")
    board = the_gpu()
    assert board is not None
    assert (board.name, board.memory_mib, board.memory_max_mhz) == ("Orin (nvgpu)", None, None)
    program.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    assert the_gpu() is None


@pytest.mark.corpora
@pytest.mark.parametrize("longest", [0, 64])
def test_the_released_way_hears_twice_sees_everything_and_pads_to_its_neighbours(
    longest: int, small: Path, run: Path, clip: Material, prompter: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its speech is 22,050 samples a second that count as 16,000, its pictures are those that the parity finds."""
    trained = Trained.read(run)
    reference = pytorch(trained, Bundle.open(small), threads=1)
    heard: list[np.ndarray] = []
    seen: list[np.ndarray] = []
    read: list[tuple[int, ...]] = []
    sound, prepare = authors_media.sound, reference.prepare_frame
    monkeypatch.setattr(authors_media, "sound", lambda path: heard.append(sound(path)) or heard[-1])
    monkeypatch.setattr(reference, "prepare_frame", lambda picture: seen.append(picture) or prepare(picture))
    trained.text.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape))
    turns = dialogue(40, prompter)
    AuthorsStyle(trained, reference).recognise(clip, turns, longest)
    assert len(heard) == 2
    assert len(heard[1]) == pytest.approx(len(clip.speech) * 22_050 / 16_000, rel=0.01)
    video = cv2.VideoCapture(str(CLIP))
    theirs = list(authors_media._of_clip(video))
    assert len(seen) == len(theirs) == 8
    assert all(np.array_equal(one, other) for one, other in zip(seen, theirs, strict=True))
    assert read == [(1, max(longest, len(prompter.encode(turns))))]


@pytest.mark.corpora
def test_a_bundle_is_timed_with_as_many_frames_as_it_takes(small: Path, clip: Material) -> None:
    recognizer = Recognizer.load(small)
    sizes = [case.size for case in cases({"small": recognizer}, clip) if case.part in ("visual", "whole utterance")]
    assert recognizer.bundle.manifest.visual.frames == 4
    assert sizes[:2] == ["1 frame", "4 frames"]
    assert sizes[2].endswith(", 4 frames")


def test_a_clip_without_a_face_is_told(
    monkeypatch: pytest.MonkeyPatch, clip: Material, caplog: pytest.LogCaptureFixture
) -> None:
    dark = replace(clip, pictures=[np.zeros_like(picture) for picture in clip.pictures])
    monkeypatch.setattr(Material, "read", lambda *_: dark)
    monkeypatch.setattr("export.benchmark.throughput", lambda *_: [])
    monkeypatch.setattr("export.benchmark.measure", lambda *_: [])
    assert main(["--repeats", "1", "--media", str(CLIP), "--json"]) == 0
    assert "shows no face: the visual part is not timed" in caplog.text


@given(tokens=st.integers(8, 64))
def test_a_dialogue_fills_a_prompt_but_for_a_word(prompter: Prompter, tokens: int) -> None:
    assert tokens - 6 <= len(prompter.encode(dialogue(tokens, prompter))) <= tokens


def test_sound_is_as_long_as_asked_for(clip: Material) -> None:
    assert len(clip.sound(2.5)) == 40_000
    assert len(clip.sound(100.0)) == 1_600_000


def test_what_cannot_be_timed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--against eager needs --run" in refused(capsys, "--against", "eager")
    assert "give one with speech and a face with --media" in refused(capsys, "--media", tmp_path / "none.mp4")
    for flag in ("--repeats", "--threads"):
        assert f"{flag} cannot be 0; give at least 1" in refused(capsys, flag, "0", "--media", CLIP)
        assert f"{flag} cannot be -1; give at least 1" in refused(capsys, flag, "-1", "--media", CLIP)
    assert "is not a bundle" in refused(capsys, tmp_path, "--media", CLIP)
    assert "lacks sound or picture" in refused(capsys, "--media", CLIP.parent / "acted.flac")


@pytest.mark.corpora
def test_a_run_of_another_model_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--media", CLIP, "--against", "eager", "--run", run, "--repeats", "1")
    assert "The run is of small and the bundle of compact" in message
