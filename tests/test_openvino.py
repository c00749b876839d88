"""Parts that OpenVINO runs: how they are made, chosen, run from several threads, and refused."""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import small_run
from engine_plans import plans, samples
from packages import required

from export import bundle as exporter
from export import choice, openvino_part, parity, together
from export.choice import EXACT_WAYS, ONNX_WAYS, OPENVINO_WAYS, Way
from export.cli import main
from export.errors import ExportError
from export.part import PartName
from export.samples import Samples
from export.torch_model import TorchModel
from telme.bundle import Bundle, BundleError, Part, Precision, UnfitError
from telme.features.text import Turn
from telme.runtime import backends, openvino
from telme.runtime.model import Array
from telme.runtime.recognizer import Recognizer

required("openvino", "openvino")
required("nncf", "nncf")

PARTS: tuple[PartName, ...] = ("text", "audio", "visual", "fusion")
# Of logits of about 1, by weights that are random and few, which quantise worse than trained ones.
ERRORS: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.1, "int8-static": 0.5}


@pytest.fixture
def undemanding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "demand", lambda *_: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by the command, spared the corpora: it compares on random inputs."""
    folder = tmp_path_factory.mktemp("bundles") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Samples, "read", lambda *_: samples())
        patch.setattr(exporter, "plans", lambda *_: plans().values())
        patch.setattr(parity, "demand", lambda *_: None)
        patch.setattr(together, "demand", lambda *_: None)
        chosen = "text=int8-static,audio=int8,visual=bf16"
        assert main([str(run), "--output", str(folder), "--target", "openvino", "--precision", chosen]) == 0
    return folder


@pytest.mark.usefixtures("undemanding")
@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize("name", PARTS)
def test_every_part_answers_in_every_precision(name: PartName, precision: Precision, tmp_path: Path) -> None:
    plan = plans()[name]
    made = openvino_part.export(plan, precision, tmp_path)
    model = backends.load(tmp_path / made.file, made, threads=1)
    wanted = TorchModel(plan.module, plan.signature).run(plan.example)
    for some in (plan.example, plan.calibration()[1]):  # a batch, and one by itself
        rows = len(next(iter(some.values())))
        found = model.run(some)["logits"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(
            found, wanted["logits"][:4] if rows > 1 else wanted["logits"][1:2], atol=ERRORS[precision]
        )


@pytest.mark.usefixtures("undemanding")
@pytest.mark.parametrize("name", ["text", "audio"])
def test_attention_is_not_guarded_against_what_no_encoder_is_asked(name: PartName, tmp_path: Path) -> None:
    made = openvino_part.export(plans()[name], "fp32", tmp_path)
    kinds = {node.get_type_name() for node in openvino.load().Core().read_model(tmp_path / made.file).get_ops()}
    assert "IsNaN" not in kinds


def test_threads_share_a_model(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    text = opened.manifest.parts.text
    model = backends.load(opened.path(text), text, threads=1)
    questions = [row for row in plans()["text"].calibration() for _ in range(10)]
    alone = [model.run(question)["logits"] for question in questions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda question: model.run(question)["logits"], questions))
    np.testing.assert_array_equal(together, alone)


def test_the_bundle_recognises(bundle: Path) -> None:
    answer = Recognizer.load(bundle, backend="auto").recognize(
        text=[Turn("a", "what is that ?")], audio=np.ones(16_000, np.float32)
    )
    assert set(answer.modalities) == {"text", "audio"}
    parts = Bundle.open(bundle).manifest.parts
    assert (parts.text.precision, parts.audio.precision, parts.visual.precision) == ("int8-static", "int8", "bf16")
    assert parts.text.parity is not None
    assert parts.text.parity.computed_by == "openvino"
    assert {trial.backend for trial in parts.fusion.trials} == {"openvino", "onnxruntime"}


def test_without_openvino_the_bundle_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)  # type: ignore[arg-type]
    with pytest.raises(UnfitError, match=r'small needs OpenVINO: .*run `pip install "telme-live\[openvino\]"`'):
        Recognizer.load(bundle)


def _no_weights(folder: Path) -> None:
    (folder / "text.bin").unlink()


def _other_weights(folder: Path) -> None:
    (folder / "text.bin").write_bytes(b"nothing")


@pytest.mark.parametrize(("damage", "words"), [(_no_weights, "cannot be read"), (_other_weights, "is damaged")])
def test_weights_are_verified(bundle: Path, tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    damage(folder)
    with pytest.raises(BundleError, match=f"text part's weight file of .* {words}"):
        Bundle.open(folder)


def test_what_is_no_model_is_refused(bundle: Path, tmp_path: Path) -> None:
    text = Bundle.open(bundle).manifest.parts.text
    path = tmp_path / "text.xml"
    path.write_text("<net/>")
    with pytest.raises(BundleError, match=r"OpenVINO cannot load .*text.xml"):
        backends.load(path, text, threads=1)
    shutil.copyfile(bundle / "visual.xml", path)
    shutil.copyfile(bundle / "visual.bin", tmp_path / "text.bin")
    with pytest.raises(BundleError, match="the manifest says"):
        backends.load(path, text, threads=1)


def _chosen(
    monkeypatch: pytest.MonkeyPatch, folder: Path, milliseconds: Mapping[str, float], strict: set[Precision]
) -> Part:
    """What is chosen of the fusion's ways, as if they took so long, and as if some precisions strayed."""
    monkeypatch.setattr(choice, "timed", lambda models, _: [milliseconds[type(model).__name__] for model in models])
    for precision in strict:
        monkeypatch.setitem(parity.LIMITS, precision, parity.Limits(1.1, 1.0))
    return choice.fastest(plans()["fusion"], ((Way("openvino", "bf16"),), EXACT_WAYS), folder)


def test_the_fastest_that_agrees_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = _chosen(monkeypatch, tmp_path, {"OnnxModel": 1.0, "OpenVinoModel": 2.0}, {"bf16"})
    assert (taken.backend, taken.precision) == ("onnxruntime", "fp16")
    assert [(trial.backend, trial.precision, trial.median_ms) for trial in taken.trials] == [
        ("openvino", "fp32", 2.0),
        ("onnxruntime", "fp16", 1.0),
        ("openvino", "bf16", None),  # which strayed, and was not timed
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["fusion.onnx"]


def test_the_first_group_that_agrees_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = _chosen(monkeypatch, tmp_path, {"OpenVinoModel": 2.0}, set())
    assert (taken.precision, len(taken.trials)) == ("bf16", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"fusion.xml", "fusion.bin"}


def test_where_nothing_agrees_there_is_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match="No way to compute the fusion part agrees"):
        _chosen(monkeypatch, tmp_path, {}, {"bf16", "fp32", "fp16"})
    assert list(tmp_path.iterdir()) == []


def test_what_is_tried() -> None:
    assert choice.ways("text", openvino=True) == (OPENVINO_WAYS, EXACT_WAYS)
    assert choice.ways("text", openvino=False) == (ONNX_WAYS, EXACT_WAYS[1:])
    assert all(way.backend == "onnxruntime" for group in choice.ways("fusion", openvino=False) for way in group)
    for student in ("audio", "visual"):
        assert Way("onnxruntime", "int8-static") in choice.ways(student, openvino=True)[0]


def test_precisions_that_openvino_does_not_have(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(run), "--output", str(tmp_path / "x"), "--target", "openvino", "--precision", "text=fp16"]
    assert main(command) == 2
    assert "are made in fp32, bf16, int8, int8-static, not in fp16" in capsys.readouterr().err


def test_times_are_medians_of_turns() -> None:
    turns: list[int] = []

    class Counted:
        def __init__(self, number: int) -> None:
            self.number = number

        def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            turns.append(self.number)
            return {}

    assert len(choice.timed([Counted(0), Counted(1)], {}, repeats=3)) == 2
    assert turns == [0, 1] * 4
