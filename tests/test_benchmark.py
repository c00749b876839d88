"""`telme-bench`: what it times, what it compares, and what it makes of mistakes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from export import bundle as exporter
from export import material, parity
from export.benchmark import Benchmark, cases
from export.benchmark_cli import AUTHORS_STYLE, EAGER, main
from export.benchmark_report import CHART_PX
from export.eager import AuthorsStyle, eager
from export.material import Material, dialogue
from export.trained import Trained
from telme.bundle import COMPACT, Bundle
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
    reference = eager(Trained.read(run), recognizer.bundle, threads=1)
    whole = next(
        case for case in cases({"small": recognizer, EAGER: reference}, clip) if case.part == "whole utterance"
    )
    (exported,), (trained,) = whole.work["small"](), whole.work[EAGER]()
    assert list(trained.scores.values()) == pytest.approx(list(exported.scores.values()), abs=0.02)
    padded = AuthorsStyle(Trained.read(run), reference).read(dialogue(40, prompter))
    alone = reference.encode_text(dialogue(40, prompter))
    assert alone is not None
    np.testing.assert_allclose(padded.vector, alone.vector, atol=1e-5)


@pytest.mark.corpora
def test_the_released_way_decodes_twice(
    small: Path, run: Path, clip: Material, prompter: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def watched(path: Path) -> tuple[object, object]:
        decoded.append(path)
        return material_decode(path)

    material_decode = material.decode
    monkeypatch.setattr("export.eager.decode", watched)
    trained = Trained.read(run)
    AuthorsStyle(trained, eager(trained, Bundle.open(small), threads=1)).recognise(clip, dialogue(40, prompter))
    assert decoded == [CLIP, CLIP]


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
