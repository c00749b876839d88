"""Engines that are really built: TensorRT for RTX needs no GPU for that, only for running them."""

import json
import shlex
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_gpu
import pytest
import small_run
from engine_plans import plans, samples
from export_command import refused
from full_disk import files_of_at_most
from onnx import ModelProto
from packages import required

from export import build_progress, engine_part
from export import bundle as exporter
from export.cli import main
from export.errors import ExportError
from export.onnx import to_onnx
from export.part import PartName
from export.samples import Samples
from export.tensorrt import Builder, Options, parsed
from export.typed import typed
from telme.bundle import Bundle, Document, Manifest, Parity, Precision, UnfitError, sha256_of
from telme.runtime import fit, gpu, tensorrt_library
from telme.runtime.tensorrt_library import Complaints

RTX = Options("tensorrt-rtx", compute_capabilities=("8.9", "12.0"))


@pytest.fixture(scope="module")
def library() -> ModuleType:
    required("tensorrt_rtx", "tensorrt-rtx")
    return tensorrt_library.load("tensorrt-rtx")


@pytest.fixture(scope="module")
def fusion() -> ModelProto:
    plan = plans()["fusion"]
    return typed(to_onnx(plan.module, plan.signature, plan.example, engine_part.OPSET_APART), "fp16")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def small_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the command the corpora: it compares on random inputs."""
    monkeypatch.setattr(Samples, "read", lambda *_: samples())
    made = plans().values()
    monkeypatch.setattr(exporter, "plans", lambda *_: made)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is one."""

    def none() -> None:
        raise UnfitError("There is no usable NVIDIA GPU here.")

    monkeypatch.setattr(gpu, "device", none)


@pytest.mark.slow
@pytest.mark.usefixtures("library", "no_gpu")
@pytest.mark.parametrize(
    ("name", "precision"),
    [("text", "fp16"), ("text", "bf16"), ("text", "fp32"), ("audio", "fp16"), ("visual", "fp16"), ("fusion", "fp16")],
)
def test_a_part_becomes_an_engine(name: PartName, precision: Precision, tmp_path: Path) -> None:
    part = engine_part.export(plans()[name], precision, tmp_path, Builder(RTX), RTX)
    path = tmp_path / f"{name}.engine"
    assert part.sha256 == sha256_of(path)
    assert part.bytes == path.stat().st_size
    assert (part.backend, part.precision) == ("tensorrt-rtx", precision)
    assert part.engine is not None
    assert part.engine.version == tensorrt_library.load("tensorrt-rtx").__version__
    assert part.engine.compute_capabilities == ("8.9", "12.0")
    assert part.engine.gpu is None
    assert len(part.engine.profiles) == 2
    assert part.parity is not None
    assert part.parity.computed_by == "onnxruntime"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "audio", "visual"])
def test_layers_compute_in_the_types_of_the_model(name: PartName, library: ModuleType) -> None:
    plan = plans()[name]
    model = typed(to_onnx(plan.module, plan.signature, plan.example), "fp16")
    complaints = Complaints(library)
    builder = library.Builder(complaints.logger)
    network = parsed(library, builder, model.SerializeToString(), complaints)
    found: dict[str, set[str]] = {}
    for place in range(network.num_layers):
        layer = network.get_layer(place)
        found.setdefault(layer.type.name, set()).add(layer.get_output(0).dtype.name)
    assert found["NORMALIZATION"] == {"FLOAT"}
    assert found["MATRIX_MULTIPLY"] == {"HALF"}
    assert found.get("CONVOLUTION", {"HALF"}) == {"HALF"}
    assert found.get("ATTENTION_OUTPUT", {"HALF"}) == {"HALF"}
    for place, tensor in enumerate(plan.signature.inputs):
        given = network.get_input(place)
        assert given.name == tensor.name
        assert tuple(given.shape) == tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
        assert given.dtype.name == {"float32": "FLOAT", "int64": "INT64", "bool": "BOOL"}[tensor.dtype]


@pytest.mark.usefixtures("no_gpu")
def test_the_runtime_knows_an_engine_from_nonsense(library: ModuleType, fusion: ModelProto) -> None:
    plan = plans()["fusion"]
    content, engine = Builder(RTX).build(fusion, engine_part.profiles_of(plan), "fusion")
    assert engine.onnx_sha256 == sha256(fusion.SerializeToString()).hexdigest()
    runtime = library.Runtime(Complaints(library).logger)
    malformed = int(library.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    _, diagnostics = runtime.get_engine_validity(content)
    assert not int(diagnostics) & malformed
    _, diagnostics = runtime.get_engine_validity(bytes(len(content)))
    assert int(diagnostics) & malformed


def damaged(model: ModelProto) -> Iterator[tuple[str, bytes]]:
    content = model.SerializeToString()
    yield "Failed to parse", content[: len(content) // 2]
    yield "empty or damaged", b"hello"
    other = ModelProto()
    other.CopyFrom(model)
    other.graph.node[0].op_type = "Frobnicate"
    yield "(Frobnicate)", other.SerializeToString()


def test_a_damaged_model_costs_one_sentence(library: ModuleType, fusion: ModelProto) -> None:
    for said, content in damaged(fusion):
        complaints = Complaints(library)
        with pytest.raises(ExportError) as refusal:
            parsed(library, library.Builder(complaints.logger), content, complaints)
        assert said in str(refusal.value)
        assert "\n" not in str(refusal.value)


@pytest.mark.slow
@pytest.mark.usefixtures("library", "small_plans", "no_gpu")
def test_a_run_becomes_a_bundle_that_waits_for_its_gpu(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    output = tmp_path / "bundle"
    command = [str(run), "--output", str(output), "--target", "tensorrt-rtx", "--compute-capability", "8.9"]
    assert main(command) == 0
    assert "text engine: 1 of " in caplog.text
    bundle = Bundle.open(output)
    for _, part in bundle.manifest.parts.named():
        assert part.engine is not None
        assert part.engine.compute_capabilities == ("8.9",)
        assert part.precision == "fp16"
    assert "TensorRT engines" in (output / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert json.loads((output / "manifest.json").read_text())["parts"]["text"]["backend"] == "tensorrt-rtx"
    with pytest.raises(UnfitError, match="no usable NVIDIA GPU"):
        fit.demand(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.slow
@pytest.mark.usefixtures("library", "small_plans", "no_gpu")
@pytest.mark.parametrize(
    "made",
    [
        "--target tensorrt-rtx --compute-capability 8.9 --workspace-mb 512 --precision text=bf16",
        "--target onnx --precision text=int8-dynamic,audio=fp32",
    ],
    ids=["tensorrt-rtx", "onnx"],
)
def test_the_command_that_a_bundle_names_makes_it_again(
    made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the licences from the bundle that it replaces."""
    monkeypatch.chdir(tmp_path)
    small_run.write(tmp_path / "runs" / "small")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text("do as you like")
    assert main(["runs/small", "--output", "bundle", "--licences", "texts", *made.split()]) == 0
    (tmp_path / "texts" / "one.txt").unlink()
    first = Bundle.open(Path("bundle"))
    assert main(shlex.split(first.manifest.rebuild(first.folder))[1:]) == 0
    assert described(Bundle.open(Path("bundle")).manifest) == described(first.manifest)


def described(manifest: Manifest) -> dict[str, Any]:
    """All but what is measured, and what depends on how fast kernels ran when TensorRT chose them."""
    found = manifest.model_dump(exclude={"end_to_end"})
    for part in filter(None, found["parts"].values()):
        for name in ("sha256", "bytes", "parity"):
            del part[name]
    found["documents"] = [one for one in found["documents"] if one["file"] != exporter.CARD]
    return found


@pytest.mark.usefixtures("library", "small_plans", "no_gpu")
@pytest.mark.parametrize("target", ["tensorrt-rtx", "onnx"])
def test_a_disk_that_fills_up_half_way_leaves_no_bundle(
    target: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with files_of_at_most(4096):
        message = refused(capsys, run, "--output", tmp_path / "bundle", "--target", target)
    assert "Cannot write the bundle" in message
    assert "File too large" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_with_too_little_memory_to_build(
    library: ModuleType, fusion: ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder(RTX)

    def out_of_memory(*_: object) -> None:
        return None

    monkeypatch.setattr(library.Builder, "build_serialized_network", out_of_memory)
    monkeypatch.setattr(Complaints, "reason", lambda _: "Requested amount of GPU memory could not be allocated")
    with pytest.raises(ExportError, match=r"the fusion part \(Requested amount of GPU memory.*--precision"):
        builder.build(fusion, engine_part.profiles_of(plans()["fusion"]), "fusion")


@pytest.mark.parametrize("strip", [True, False])
def test_an_engine_without_weights_has_them_beside_it(
    strip: bool, library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the build itself, which needs a GPU: network, flags and profiles are the library's own."""
    options = Options("tensorrt-rtx", compute_capabilities=("8.9",), strip_weights=strip)
    flags: list[str] = []

    def build(_: object, network: object, config: Any) -> bytes:
        known = (library.BuilderFlag.STRIP_PLAN, library.BuilderFlag.REFIT_IDENTICAL, library.BuilderFlag.REFIT)
        flags.extend(flag.name for flag in known if config.get_flag(flag))
        return b"an engine"

    agreement = Parity(items=1, max_abs_error=0, mean_abs_error=0, min_cosine=1, argmax_agreement=1)
    monkeypatch.setattr(gpu, "find", lambda: gpu.Gpu("NVIDIA Imaginary 4000", "8.9"))
    monkeypatch.setattr(library.Builder, "build_serialized_network", build)
    monkeypatch.setattr(engine_part, "_on_gpu", lambda *_: agreement)
    part = engine_part.export(plans()["fusion"], "fp16", tmp_path, Builder(options), options)
    assert flags == (["STRIP_PLAN", "REFIT_IDENTICAL"] if strip else [])
    assert part.engine is not None
    if not strip:
        assert part.engine.weights is None
        assert [path.name for path in tmp_path.iterdir()] == ["fusion.engine"]
        return
    weights = tmp_path / "fusion.onnx"
    assert part.engine.weights == Document(file="fusion.onnx", sha256=sha256_of(weights))
    assert part.engine.weights.sha256 == part.engine.onnx_sha256


@pytest.mark.usefixtures("library")
def test_engines_for_another_gpu_than_the_one_at_hand_are_not_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find", lambda: gpu.Gpu("NVIDIA H100", "9.0"))
    assert not Builder(Options("tensorrt-rtx", compute_capabilities=("8.9",))).has_gpu
    monkeypatch.setattr(gpu, "find", lambda: gpu.Gpu("NVIDIA L4", "8.9"))
    assert Builder(Options("tensorrt-rtx", compute_capabilities=("8.6", "8.9"))).has_gpu


@pytest.mark.usefixtures("library", "no_gpu")
def test_ctrl_c_stops_a_build(fusion: ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build_progress, "log_tenths", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Builder(RTX).build(fusion, engine_part.profiles_of(plans()["fusion"]), "fusion")


@pytest.mark.usefixtures("library", "no_gpu")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--target", "tensorrt-rtx", "--compute-capability", "9.0"], "builds for 7.5"),
        (["--target", "tensorrt-rtx", "--precision", "text=int8"], "not in int8; choose --precision text=fp16"),
        (["--target", "tensorrt-rtx", "--hardware", "ampere_plus"], "--hardware is for --target tensorrt, not"),
        (["--target", "tensorrt-rtx", "--strip-weights"], "Engines without weights are built on the machine that"),
        (["--target", "tensorrt", "--compute-capability", "8.9"], "--compute-capability is for --target tensorrt-rtx"),
        (["--workspace-mb", "64"], "--workspace-mb is for --target tensorrt and tensorrt-rtx, not for onnx"),
        (["--target", "tensorrt-rtx", "--workspace-mb", "0"], "cannot be 0 MB"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_do_not_fit(
    flags: list[str], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, run, "--output", tmp_path / "bundle", *flags)
    assert list(tmp_path.iterdir()) == []


def test_bf16_is_not_for_the_cpu(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, run, "--output", tmp_path / "bundle", "--precision", "text=bf16")
    assert "bf16 is for --target tensorrt" in message


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_without_the_library_a_sentence_says_what_to_install(
    target: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, target.replace("-", "_"), None)  # type: ignore[arg-type]
    message = refused(capsys, run, "--output", tmp_path / "bundle", "--target", target)
    assert f'pip install "telme-live[{target}]"' in message


@pytest.mark.usefixtures("no_gpu")
def test_tensorrt_itself_builds_where_the_gpu_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpu.install(monkeypatch)
    message = refused(capsys, run, "--output", tmp_path / "bundle", "--target", "tensorrt")
    assert "no usable NVIDIA GPU" in message
    assert "--target tensorrt-rtx" in message


def test_a_bundle_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    message = refused(capsys, tmp_path, "--output", tmp_path / "bundle", "--target", "tensorrt-rtx")
    assert "give the run folder that it was exported from" in message
