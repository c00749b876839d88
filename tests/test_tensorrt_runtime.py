"""Engines at run time: padding, profiles, CUDA graphs and refusals, on a GPU made of this machine's memory.

What only a GPU can show, nothing here shows: docs/tensorrt.md says what that is.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_gpu
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packages import required

from export import cli, engine_part
from export.profiles import profiles
from streamer.models import open_bundle
from streamer.settings import Recognition
from telme.bundle import (
    COMPACT,
    Bundle,
    BundleError,
    Engine,
    Manifest,
    Part,
    Precision,
    ShapeRange,
    Tensor,
    UnfitError,
    sha256_of,
)
from telme.features.text import Turn
from telme.runtime import fit, tensorrt_library
from telme.runtime.gpu import Gpu, device
from telme.runtime.recognizer import Inputs, Recognizer
from telme.runtime.tensorrt import CAPTURED_MAX, choose_profile, padded_sizes, rounded_up
from telme.runtime.tensorrt_library import compute_capabilities

PARTS = ("text", "audio", "visual", "fusion")
TYPICAL = {
    "text": {"input_ids": (4, 30), "attention_mask": (4, 30)},
    "audio": {"features": (4, 80, 300), "mask": (4, 300)},
    "visual": {"frames": (4, 3, 1, 48, 48), "mask": (4, 3)},
    "fusion": {
        **{f"{name}_vector": (4, 256) for name in ("text", "audio", "visual")},
        **dict.fromkeys(("audio_present", "visual_present", "beta"), (4,)),
    },
}


@pytest.fixture(scope="session")
def shipped() -> Recognizer:
    """The compact bundle, computed in float32 as the imaginary GPU does."""
    bundle = Bundle.open(COMPACT)
    stored = {name: getattr(bundle.manifest.parts, name).model_copy(update={"precision": "int8"}) for name in PARTS}
    parts = bundle.manifest.parts.model_copy(update=stored)
    return Recognizer.load(Bundle(COMPACT, bundle.manifest.model_copy(update={"parts": parts}), bundle.sha256))


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compact bundle, whose parts are called engines: on the imaginary GPU they run."""
    folder = Path(shutil.copytree(COMPACT, tmp_path_factory.mktemp("bundles") / "engines"))
    change(folder, lambda part, name: part.update(backend="tensorrt", engine=about(name)))
    return folder


@pytest.fixture(scope="session")
def rtx_engines(engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the other flavour: built without a GPU, for two kinds of them."""
    folder = Path(shutil.copytree(engines, tmp_path_factory.mktemp("bundles") / "rtx"))
    ahead_of_time = {
        "version": fake_gpu.RTX_VERSION,
        "gpu": None,
        "compute_capabilities": ("8.9", "12.0"),
        "hardware": "same_compute_capability",
    }
    change(folder, lambda part, name: part.update(backend="tensorrt-rtx", engine=about(name) | ahead_of_time))
    return folder


def about(name: str) -> dict[str, Any]:
    inputs = getattr(Bundle.open(COMPACT).manifest.parts, name).inputs
    return Engine(
        version=fake_gpu.VERSION,
        gpu=fake_gpu.NAME,
        compute_capabilities=("8.9",),
        profiles=profiles(inputs, TYPICAL[name]),
        onnx_sha256="0" * 64,
    ).model_dump()


def change(folder: Path, edit: Callable[[dict[str, Any], str], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in PARTS:
        edit(manifest["parts"][name], name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu.install(monkeypatch)


def stripped(engines: Path, folder: Path, weights: str) -> Path:
    """The bundle with a fusion whose weights are zero in the engine and real in the file beside it.

    weights: the part whose model that file is.
    """
    shutil.copytree(engines, folder)
    shutil.copy(engines / f"{weights}.onnx", folder / "weights.onnx")
    model = onnx.load(folder / "fusion.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(model, folder / "fusion.onnx")
    document = {"file": "weights.onnx", "sha256": sha256_of(folder / "weights.onnx")}

    def strip(part: dict[str, Any], name: str) -> None:
        if name == "fusion":
            part["engine"]["weights"] = document
            part["sha256"] = sha256_of(folder / "fusion.onnx")

    change(folder, strip)
    return folder


def utterances() -> list[Inputs]:
    random = np.random.default_rng(0)
    return [
        Inputs(
            text=[Turn("a", "oh no"), Turn("b", "what is that? " * n)] if n % 3 else None,
            audio=random.standard_normal(4000 * n).astype(np.float32) / 10 if n % 2 else None,
            frames=[random.integers(0, 255, (48, 48), np.uint8) for _ in range(n)] if n != 5 else None,
        )
        for n in range(1, 8)
    ]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("flavour", ["engines", "rtx_engines"])
def test_an_engine_answers_as_its_model_does(flavour: str, shipped: Recognizer, request: pytest.FixtureRequest) -> None:
    recognizer = Recognizer.load(request.getfixturevalue(flavour))
    together = recognizer.recognize_batch(utterances())
    for item, found in zip(utterances(), together, strict=True):
        wanted = shipped.recognize(text=item.text, audio=item.audio, frames=item.frames)
        alone = recognizer.recognize(text=item.text, audio=item.audio, frames=item.frames)
        assert alone.scores == pytest.approx(wanted.scores, abs=1e-5)
        assert found.scores == pytest.approx(wanted.scores, abs=0.01)  # sums in another order tip int8 roundings


@pytest.mark.usefixtures("gpu")
def test_an_engine_without_weights_gets_them_at_load(engines: Path, shipped: Recognizer, tmp_path: Path) -> None:
    recognizer = Recognizer.load(stripped(engines, tmp_path / "bundle", "fusion"))
    item = next(item for item in utterances() if item.text and item.audio is not None)
    found = recognizer.recognize(text=item.text, audio=item.audio, frames=item.frames)
    wanted = shipped.recognize(text=item.text, audio=item.audio, frames=item.frames)
    assert found.scores == pytest.approx(wanted.scores, abs=1e-5)


@pytest.mark.usefixtures("gpu")
def test_weights_of_another_engine_are_refused(engines: Path, tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match=r"do not fit the engine \(the names of the weights differ\)"):
        Recognizer.load(stripped(engines, tmp_path / "bundle", "visual"))


def test_damaged_weights_are_refused(engines: Path, tmp_path: Path) -> None:
    folder = stripped(engines, tmp_path / "bundle", "fusion")
    (folder / "weights.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"fusion part's weight file of .* is damaged"):
        Recognizer.load(folder)


@pytest.mark.usefixtures("gpu")
def test_lengths_that_are_padded_alike_replay_one_graph(engines: Path) -> None:
    recognizer = Recognizer.load(engines, backend="tensorrt")
    samples = np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
    recognizer.encode_audio(samples[:39_000])
    assert fake_gpu.GraphBuilder.completed == 1
    for length in (39_500, 39_200, 39_000):
        recognizer.encode_audio(samples[:length])
    assert fake_gpu.GraphBuilder.completed == 1
    recognizer.encode_audio(samples[:20_000])
    assert fake_gpu.GraphBuilder.completed == 2


@pytest.mark.usefixtures("gpu")
def test_tensorrt_for_rtx_captures_graphs_itself(rtx_engines: Path) -> None:
    Recognizer.load(rtx_engines).warm_up()
    assert fake_gpu.GraphBuilder.completed == 0


@pytest.mark.usefixtures("gpu")
def test_graphs_that_were_not_used_for_long_are_forgotten(engines: Path) -> None:
    recognizer = Recognizer.load(engines)
    samples = np.random.default_rng(0).standard_normal(160_000).astype(np.float32)
    lengths = sorted({rounded_up(steps) for steps in range(10, 1000)})
    assert len(lengths) < CAPTURED_MAX  # so that single utterances are never captured twice
    for steps in 2 * lengths[:5]:
        recognizer.encode_audio(samples[: 160 * steps])
    assert fake_gpu.GraphBuilder.completed == 5


@pytest.mark.usefixtures("gpu")
def test_threads_share_a_worker(engines: Path, shipped: Recognizer) -> None:
    recognizer = Recognizer.load(engines)
    dialogues = [[Turn("a", "so it goes " * n)] for n in (1, 2, 3, 4) * 4]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(recognizer.encode_text, dialogues))
    for dialogue, answer in zip(dialogues, found, strict=True):
        wanted = shipped.encode_text(dialogue)
        assert answer is not None
        assert wanted is not None
        np.testing.assert_allclose(answer.vector, wanted.vector, atol=1e-5)


@given(st.integers(1, 10**6))
def test_padding_adds_less_than_a_quarter(size: int) -> None:
    padded = rounded_up(size)
    assert size <= padded < 1.25 * size
    assert rounded_up(padded) == padded


def test_padding_stays_within_the_range() -> None:
    ranges = {"batch": (1, 32), "tokens": (1, 72)}
    inputs = [Tensor(name="input_ids", dtype="int64", shape=("batch", "tokens"), ranges=ranges)]
    assert padded_sizes(inputs, {"batch": 27, "tokens": 71}) == {"batch": 28, "tokens": 72}
    assert padded_sizes(inputs, {"batch": 32, "tokens": 65}) == {"batch": 32, "tokens": 72}  # of 80


@pytest.mark.parametrize("name", PARTS)
def test_profiles_cover_the_ranges_in_the_manifest(name: str) -> None:
    part: Part = getattr(Bundle.open(COMPACT).manifest.parts, name)
    one, many = profiles(part.inputs, TYPICAL[name])
    for tensor in part.inputs:
        low = tuple(d if isinstance(d, int) else tensor.ranges[d][0] for d in tensor.shape)
        high = tuple(d if isinstance(d, int) else tensor.ranges[d][1] for d in tensor.shape)
        assert one[tensor.name].min == low
        assert one[tensor.name].max == (1, *high[1:])
        assert many[tensor.name].min == (2, *low[1:])
        assert many[tensor.name].max == high
        for profile in (one, many):
            assert profile[tensor.name].holds(profile[tensor.name].opt)


def test_a_shape_beyond_all_profiles_is_an_error() -> None:
    profile = {"x": ShapeRange(min=(1, 1), opt=(1, 4), max=(1, 8))}
    assert choose_profile([profile], {"x": (1, 8)}) == 0
    with pytest.raises(ValueError, match="no profile"):
        choose_profile([profile], {"x": (2, 8)})


FITS = Engine.model_validate(
    {
        "version": "11.4.0.106",
        "gpu": "NVIDIA L4",
        "compute_capabilities": ["8.9"],
        "profiles": [{"x": {"min": [1], "opt": [1], "max": [1]}}],
        "onnx_sha256": "0" * 64,
    }
)
L4, ADA, H100 = Gpu("NVIDIA L4", "8.9"), Gpu("NVIDIA RTX 4090", "8.9"), Gpu("NVIDIA H100", "9.0")
TURING, BLACKWELL = Gpu("NVIDIA T4", "7.5"), Gpu("NVIDIA RTX 5090", "12.0")


@pytest.mark.parametrize(
    ("changes", "version", "gpu", "said"),
    [
        ({}, "11.4.0.106", L4, None),
        ({}, "11.4.1.2", L4, "11.4.0.106 and 11.4.1.2 is installed"),
        ({}, "11.4.0.106", ADA, "for the NVIDIA L4 and this is the NVIDIA RTX 4090"),
        ({}, "11.4.0.106", H100, "capability 8.9 and the NVIDIA H100 has 9.0"),
        ({"hardware": "same_compute_capability"}, "11.4.0.106", ADA, None),
        ({"hardware": "same_compute_capability"}, "11.4.0.106", H100, "8.9"),
        ({"hardware": "ampere_plus"}, "11.4.0.106", BLACKWELL, None),
        ({"hardware": "ampere_plus"}, "11.4.0.106", TURING, "8.0 or more"),
        ({"version_compatible": True}, "11.10.0.1", L4, None),
        ({"version_compatible": True}, "11.3.9.9", L4, "11.3.9.9"),
        ({"version_compatible": True}, "12.0.0.1", L4, "12.0.0.1"),
        ({"gpu": None, "hardware": "same_compute_capability"}, "11.4.0.106", ADA, None),
    ],
)
def test_which_machines_an_engine_fits(changes: dict[str, Any], version: str, gpu: Gpu, said: str | None) -> None:
    complaint = fit.complaint_about(FITS.model_copy(update=changes), "tensorrt", version, gpu)
    assert complaint is None if said is None else complaint is not None and said in complaint


def other_version(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys.modules["tensorrt"], "__version__", "11.5.0.1")


def unknown_major_version(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys.modules["tensorrt"], "__version__", "8.6.1")


def other_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fake_gpu.Device, "compute_capability", SimpleNamespace(major=9, minor=0))


def no_gpu(patch: pytest.MonkeyPatch) -> None:
    def no_driver(self: fake_gpu.Device) -> None:
        raise RuntimeError("CUDA_ERROR_NO_DEVICE:\nno CUDA-capable device")

    patch.setattr(fake_gpu.Device, "set_current", no_driver)


def no_library(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "tensorrt", None)  # type: ignore[arg-type]


def no_cuda(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "cuda.core", None)  # type: ignore[arg-type]


def no_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fake_gpu.Device, "free_bytes", 1000)


def memory_for_the_engine_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fake_gpu.Device, "free_bytes", 25_000_000)
    patch.setattr(fake_gpu.Engine, "device_memory_size_v2", 30_000_000)


def broken_engine(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fake_gpu.onnx, "load_from_string", lambda _: 1 / 0)


REFUSALS: list[tuple[Callable[[pytest.MonkeyPatch], None], str, str]] = [
    (other_version, "11.5.0.1 is installed", "telme-export runs/compact --target tensorrt"),
    (unknown_major_version, "8.6.1 is installed", "pip install"),
    (other_gpu, "8.9 and the NVIDIA Imaginary 4000 has 9.0", "telme-export runs/compact --target tensorrt"),
    (no_gpu, "no usable NVIDIA GPU here (CUDA_ERROR_NO_DEVICE: no CUDA-capable", "nvidia-smi"),
    (
        no_gpu,
        "no usable NVIDIA GPU",
        "`telme-export runs/compact --output bundles/compact-onnx --corpora /path/to/corpora --samples 64 --licences /",
    ),
    (no_library, "tensorrt cannot be imported", 'pip install "telme-live[tensorrt]"'),
    (no_cuda, "cuda-core", 'pip install "telme-live[tensorrt]"'),
    (no_memory, "needs 23 MB of GPU memory and 0 MB are free", "nvidia-smi"),
    (memory_for_the_engine_alone, "25 MB are free", "choose a smaller bundle"),
    (broken_engine, "the magic tag does not match", "export the bundle again"),
]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("damage", "said", "remedy"), REFUSALS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_does_not_fit_is_refused_with_a_remedy(
    damage: Callable[[pytest.MonkeyPatch], None],
    said: str,
    remedy: str,
    engines: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(monkeypatch)
    with pytest.raises(UnfitError) as refusal:
        Recognizer.load(engines)
    message = str(refusal.value)
    assert said in message
    assert remedy in message
    assert "\n" not in message


@pytest.mark.usefixtures("gpu")
def test_a_damaged_engine_is_refused_before_the_gpu_sees_it(engines: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(engines, tmp_path / "bundle"))
    content = bytearray((folder / "fusion.onnx").read_bytes())
    content[1000] ^= 1
    (folder / "fusion.onnx").write_bytes(content)
    with pytest.raises(
        BundleError, match=r"fusion part of .* is damaged.*`telme-export runs/compact --target tensorrt "
    ):
        Recognizer.load(folder)


def told(command: str) -> dict[str, str]:
    """The options of a telme-export command that have values."""
    words = shlex.split(command)
    assert words[:2] == ["telme-export", "runs/compact"]
    return dict(zip(words[2::2], words[3::2], strict=True))


def test_the_command_that_rebuilds_says_all_that_the_manifest_knows(rtx_engines: Path, engines: Path) -> None:
    manifest = Bundle.open(rtx_engines).manifest
    here = Path("my bundles/one")
    assert told(manifest.rebuild(here, here="8.6", rtx=["8.6", "8.9", "12.0"])) == {
        "--target": "tensorrt-rtx",
        "--output": "my bundles/one",
        "--corpora": "/path/to/corpora",
        "--precision": ",".join(f"{name}={getattr(manifest.parts, name).precision}" for name in PARTS),
        "--samples": "64",
        "--licences": "my bundles/one/licences",
        "--compute-capability": "8.6,8.9,12.0",
    }
    assert told(manifest.rebuild(here, "elsewhere"))["--output"] == "elsewhere"
    assert told(manifest.rebuild(here))["--compute-capability"] == "8.9,12.0"
    manifest = Bundle.open(engines).manifest
    weights = manifest.documents[0]
    built = {"hardware": "ampere_plus", "version_compatible": True, "weights": weights, "workspace_mb": 256}
    for_many = with_text(manifest, engine=manifest.parts.text.engine.model_copy(update=built))
    ends = "--version-compatible --workspace-mb 256 --strip-weights"
    assert for_many.rebuild(here, here="8.6").endswith(f"--hardware ampere_plus {ends}")
    assert for_many.rebuild(here, here="7.5").endswith(f"{here}/licences' {ends}")  # too old to build for newer ones
    bare = manifest.model_copy(update={"documents": (weights,)})
    assert "--licences" not in told(bare.rebuild(here))


def with_text(manifest: Manifest, **changes: Any) -> Manifest:
    text = manifest.parts.text.model_copy(update=changes)
    return manifest.model_copy(update={"parts": manifest.parts.model_copy(update={"text": text})})


@pytest.mark.parametrize(
    ("precision", "here", "target", "capabilities", "wish"),
    [
        ("fp16", "9.0", "tensorrt", None, "fp16"),  # TensorRT for RTX does not build for an H100
        ("fp16", "7.5", "tensorrt-rtx", "7.5,8.9,12.0", "fp16"),
        ("bf16", "7.5", "tensorrt-rtx", "7.5,8.9,12.0", "fp16"),
        ("bf16", "8.0", "tensorrt-rtx", "8.0,8.9,12.0", "bf16"),
        ("fp8", "8.6", "tensorrt-rtx", "8.6,8.9,12.0", "int8-static"),
        ("fp8", "9.0", "tensorrt", None, "fp8"),
    ],
)
def test_the_command_that_rebuilds_asks_for_nothing_that_is_refused(
    precision: Precision, here: str, target: str, capabilities: str | None, wish: str, rtx_engines: Path
) -> None:
    required("tensorrt_rtx", "tensorrt-rtx")
    rtx = compute_capabilities(tensorrt_library.load("tensorrt-rtx"))
    manifest = with_text(Bundle.open(rtx_engines).manifest, precision=precision)
    options = told(manifest.rebuild(rtx_engines, here=here, rtx=rtx))
    assert (options["--target"], options.get("--compute-capability")) == (target, capabilities)
    assert cli.precisions(options["--precision"])["text"] == wish
    if capabilities is not None:
        assert set(capabilities.split(",")) <= rtx.keys()
    if wish == "fp8":
        engine_part.demand_fp8("text", (capabilities or here).split(","))


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_tensorrt_for_rtx_does_not_know_is_sent_elsewhere(
    rtx_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_gpu(monkeypatch)
    with pytest.raises(UnfitError, match=r"has 9\.0; run `telme-export runs/compact --target tensorrt --output"):
        Recognizer.load(rtx_engines)


def test_a_damaged_licence_is_not_taken_over(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(COMPACT, tmp_path / "bundle"))
    next((folder / "licences").iterdir()).write_text("do as you like")
    with pytest.raises(BundleError, match=r"licence of .* is damaged.*; copy the whole bundle again\.$"):
        Bundle.open(folder)


def test_a_part_that_was_chosen_for_another_backend_is_chosen_again() -> None:
    manifest = Bundle.open(COMPACT).manifest
    assert "--target onnx " in manifest.rebuild(COMPACT)
    mixed = with_text(manifest, backend="openvino", precision="bf16")
    assert "--target openvino " in mixed.rebuild(COMPACT)
    assert "text=bf16,audio=auto,visual=auto,fusion=auto" in mixed.rebuild(COMPACT)


def test_the_reason_of_a_gpu_is_cut_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{number}" for number in range(100)]
    fake_gpu.install(monkeypatch)
    monkeypatch.setattr(fake_gpu.Device, "set_current", lambda _: (_ for _ in ()).throw(RuntimeError(" ".join(words))))
    with pytest.raises(UnfitError) as refusal:
        device()
    said = str(refusal.value).partition("(")[2].partition(")")[0].split()
    assert set(said) <= {*words, "…"}


def test_a_manifest_must_say_what_an_engine_is_for(engines: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(engines, tmp_path / "bundle"))
    change(folder, lambda part, _: part.update(engine=None))
    with pytest.raises(BundleError, match="engine must be given for backend tensorrt"):
        Bundle.open(folder)


@pytest.mark.usefixtures("gpu")
def test_a_backend_that_the_bundle_is_not_for(engines: Path) -> None:
    with pytest.raises(BundleError, match="was exported for tensorrt, not for onnxruntime"):
        Recognizer.load(engines, backend="onnxruntime")
    with pytest.raises(BundleError, match="--target tensorrt-rtx"):
        Recognizer.load(backend="tensorrt-rtx")


def test_a_stream_falls_back_only_if_told_to(
    engines: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    no_library(monkeypatch)
    with pytest.raises(UnfitError, match="tensorrt cannot be imported"):
        open_bundle(Recognition(bundle=engines))
    with pytest.raises(UnfitError):
        open_bundle(Recognition(bundle=engines, fallback=engines))
    assert open_bundle(Recognition(bundle=engines, fallback=Path("compact"))).folder == COMPACT
    assert "instead" in caplog.text
    assert "tensorrt cannot be imported" in caplog.text


def test_a_damaged_bundle_is_no_reason_to_fall_back(engines: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(engines, tmp_path / "bundle"))
    (folder / "text.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(Recognition(bundle=folder, fallback=Path("compact")))
