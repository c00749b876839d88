"""A model repository for Triton: checked by Triton's own schema, and run without the server."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import fake_triton
import numpy as np
import onnxruntime
import pytest
import small_run
from export_command import refused
from fake_triton import Arrays, Server, read_config
from full_disk import files_of_at_most
from packages import required
from tritonclient.grpc.model_config_pb2 import DataType, ModelInstanceGroup

from export import triton, triton_config
from export.cli import main
from export.errors import ExportError
from telme.bundle import COMPACT, MANIFEST, Bundle, Engine, Manifest, Part, ShapeRange, UnsureText, sha256_of
from telme.runtime.encoders import batch_max
from telme.runtime.recognition import Recognition
from telme.runtime.recognizer import Inputs, Recognizer

PARTS = ("text", "audio", "visual", "fusion")
ONNX_TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64", "tensor(bool)": "TYPE_BOOL"}


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    required("tritonclient", "tritonclient")
    folder = tmp_path_factory.mktemp("triton") / "models"
    triton.export(Bundle.open(COMPACT), folder)
    return folder


@pytest.fixture
def server(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(repository, "compact", monkeypatch)


def request(recognizer: Recognizer, items: Sequence[Inputs]) -> Arrays:
    """What a client sends: features of those who have them, zeros for the others, and only inputs that somebody has."""
    encoders = {
        "text": (recognizer._text, [item.text for item in items]),
        "audio": (recognizer._audio, [item.audio for item in items]),
        "visual": (recognizer._visual, [item.frames for item in items]),
    }
    inputs: Arrays = {}
    for modality, (encoder, raws) in encoders.items():
        there = [place for place, raw in enumerate(raws) if raw is not None]
        if not there:
            continue
        for name, value in encoder.collate([encoder.extract(raws[place]) for place in there]).items():
            padded = np.zeros((len(items), *value.shape[1:]), value.dtype)
            padded[there] = value
            inputs[f"{modality}_{name}"] = padded
    if any(item.text_confidence is not None for item in items):
        confidences = [np.nan if item.text_confidence is None else item.text_confidence for item in items]
        inputs["text_confidence"] = np.array(confidences, np.float32)[:, None]
    return inputs


def assert_says(answer: Arrays, row: int, expected: Recognition, tolerance: float = 1e-4) -> None:
    assert answer["scores"][row] == pytest.approx(list(expected.scores.values()), abs=tolerance)
    assert answer["valence_arousal"][row] == pytest.approx([expected.valence, expected.arousal], abs=tolerance)
    for modality in ("text", "audio", "visual"):
        scores = expected.modality_scores.get(modality)
        wanted = [0.0] * len(expected.scores) if scores is None else list(scores.values())
        assert answer[f"{modality}_scores"][row] == pytest.approx(wanted, abs=tolerance)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_configured_as_its_model_is(repository: Path, name: str) -> None:
    config = read_config(repository / f"compact_{name}")
    assert config.name == f"compact_{name}"
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == batch_max(getattr(Bundle.open(COMPACT).manifest.parts, name))
    assert config.HasField("dynamic_batching") == (config.max_batch_size > 1)
    assert [group.kind for group in config.instance_group] == [ModelInstanceGroup.KIND_CPU]
    model = onnxruntime.InferenceSession(repository / config.name / "1" / config.default_model_filename)
    for configured, own in ((config.input, model.get_inputs()), (config.output, model.get_outputs())):
        assert [value.name for value in configured] == [value.name for value in own]
        for value, real in zip(configured, own, strict=True):
            assert DataType.Name(value.data_type) == ONNX_TYPES[real.type]
            dims = [] if "reshape" in str(value) else list(value.dims)
            assert dims == [size if isinstance(size, int) else -1 for size in real.shape[1:]]


def test_every_reference_resolves(repository: Path) -> None:
    assert {model.name for model in repository.iterdir()} == {"compact", *(f"compact_{name}" for name in PARTS)}
    for model in repository.iterdir():
        config = read_config(model)
        assert config.name == model.name
        assert (model / "1" / config.default_model_filename).is_file()
        assert [version.name for version in model.iterdir() if version.name.isdigit()] == ["1"]
        for output in config.output:
            assert not output.label_filename or (model / output.label_filename).is_file()
    rules = json.loads(read_config(repository / "compact").parameters["rules"].string_value)
    for modality, about in rules["modalities"].items():
        part = read_config(repository / about["model"])
        assert about["inputs"] == [value.name for value in part.input]
        assert about["mask"] in about["inputs"]
        asked = {value.name: value for value in read_config(repository / "compact").input}
        for value in part.input:
            assert list(asked[f"{modality}_{value.name}"].dims) == list(value.dims)
            assert asked[f"{modality}_{value.name}"].data_type == value.data_type
    assert (repository / rules["fusion"]).is_dir()
    assert tuple((repository / "compact" / "labels.txt").read_text().split()) == Bundle.open(COMPACT).manifest.labels


def test_what_a_client_needs_and_the_licences_lie_beside(repository: Path) -> None:
    for file in ("manifest.json", "tokenizer.json", "MODEL_CARD.md", "licences/minilm.txt"):
        assert (repository / "compact" / "bundle" / file).read_bytes() == (COMPACT / file).read_bytes()


def test_a_foreign_bundle_brings_no_code_and_no_configuration(repository: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(COMPACT, tmp_path / "foreign"))
    manifest = json.loads((folder / MANIFEST).read_text())
    for file in ("1/model.py", "2/model.py", "config.pbtxt", "labels.txt"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("import os")
        manifest["documents"].append({"file": file, "sha256": sha256_of(folder / file)})
    (folder / "tokenizer.json").rename(folder / "2/tokenizer.py")
    manifest["text"]["tokenizer"] = "2/tokenizer.py"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    triton.export(Bundle.open(folder), tmp_path / "models")

    def read_by_triton(models: Path) -> dict[str, bytes]:
        files = {str(path.relative_to(models)): path for path in models.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in files.items() if not name.startswith("compact/bundle/")}

    assert read_by_triton(tmp_path / "models") == read_by_triton(repository)
    assert (tmp_path / "models" / "compact" / "bundle" / "1" / "model.py").read_text() == "import os"


async def test_it_answers_as_the_recogniser_does(
    server: Server,
    recognizer: Recognizer,
    every_combination: list[Inputs],
) -> None:
    requests = [request(recognizer, [item]) for item in every_combination]
    for response, item in zip(await server.ask(*requests), every_combination, strict=True):
        assert_says(response.arrays(), 0, recognizer.recognize_batch([item])[0])


async def test_several_at_once_and_triton_s_own_session_options_change_little(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recognizer: Recognizer,
    every_combination: list[Inputs],
) -> None:
    bundle = recognizer.bundle
    joined = {name: getattr(bundle.manifest.parts, name).model_copy(update={"precision": "int8"}) for name in PARTS}
    parts = bundle.manifest.parts.model_copy(update=joined)  # else sound and faces come one at a time
    triton.export(
        Bundle(bundle.folder, bundle.manifest.model_copy(update={"parts": parts}), bundle.sha256), tmp_path / "models"
    )
    server = Server(tmp_path / "models", "compact", monkeypatch, as_recogniser=False)
    (answer,) = await server.ask(request(recognizer, every_combination))
    for row, item in enumerate(every_combination):
        assert_says(answer.arrays(), row, recognizer.recognize_batch([item])[0], tolerance=0.02)


async def test_what_is_missing_is_not_computed(
    server: Server,
    recognizer: Recognizer,
    every_combination: list[Inputs],
) -> None:
    voice = next(item for item in every_combination if item.text is None and item.frames is None)
    await server.ask(request(recognizer, [voice]))
    assert server.asked == ["compact_audio"]


async def test_doubtful_text_is_shifted_further(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recognizer: Recognizer,
    every_combination: list[Inputs],
) -> None:
    bundle = recognizer.bundle
    fusion = bundle.manifest.fusion.model_copy(update={"unsure": UnsureText(beta=0.9, low=0.2, high=0.8)})
    manifest = bundle.manifest.model_copy(update={"fusion": fusion})
    doubtful = Bundle(bundle.folder, manifest, bundle.sha256)
    triton.export(doubtful, tmp_path / "models")
    server = Server(tmp_path / "models", "compact", monkeypatch)
    whole = every_combination[0]
    items = [
        Inputs(whole.text, whole.audio, whole.frames, confidence) for confidence in (None, 0.0, 0.2, 0.5, 0.8, 1.0)
    ]
    answers = await server.ask(*(request(recognizer, [item]) for item in items))
    for answer, expected in zip(answers, Recognizer.load(doubtful).recognize_batch(items), strict=True):
        assert_says(answer.arrays(), 0, expected)


async def test_a_bad_request_spoils_no_other(
    server: Server,
    recognizer: Recognizer,
    every_combination: list[Inputs],
) -> None:
    good = request(recognizer, every_combination[:1])
    silent = {name: np.zeros_like(value) for name, value in good.items()}
    maskless = {name: value for name, value in good.items() if name != "audio_mask"}
    answers = await server.ask({}, good, silent, maskless)
    messages = [answer.error().message() if answer.has_error() else None for answer in answers]
    assert messages[1] is None
    assert messages[0] == messages[2] == "text, audio and frames are all missing: there is nothing to recognise"
    assert messages[3] == "audio_mask is missing: give all inputs of audio, or none"
    uneven = {**good, "text_input_ids": np.repeat(good["text_input_ids"], 2, axis=0)}
    doubtful = {**good, "text_confidence": np.ones((2, 1), np.float32)}
    unheard = {**good, "audio_features": np.full_like(good["audio_features"], np.nan)}
    unseen = {**good, "visual_mask": np.full_like(good["visual_mask"], np.inf)}
    # As Triton hands them over; the imitation's own check would refuse the batches.
    asked = [fake_triton.Request(inputs) for inputs in (uneven, doubtful, unheard, unseen, good)]
    responses = await server._model.execute(asked)
    messages = [answer.error().message() if answer.has_error() else None for answer in responses]
    assert messages[:2] == ["the inputs are of different numbers of utterances: give each the same first dimension"] * 2
    assert messages[2] == "audio_features holds values that are not finite (NaN or infinity)"
    assert messages[3] == "visual_mask holds values that are not finite (NaN or infinity)"
    assert messages[4] is None
    server.failing = "compact_fusion"
    (failed,) = await server.ask(good)
    assert failed.error().message() == "compact_fusion: out of memory"


def test_an_engine_is_for_the_gpu_and_its_profiles() -> None:
    part = Bundle.open(COMPACT).manifest.parts.fusion
    profile = {"beta": ShapeRange(min=(1,), opt=(1,), max=(1,))}
    config = triton_config.part_config("engine_fusion", with_engine(part, "tensorrt", (profile, profile)))
    assert config.backend == "tensorrt"
    assert config.default_model_filename == "model.plan"
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_GPU


def with_engine(part: Part, flavour: str, profiles: tuple[dict[str, ShapeRange], ...], stripped: bool = False) -> Part:
    engine = Engine(version="11.4.0", gpu="any", compute_capabilities=("8.9",), profiles=profiles, onnx_sha256="0" * 64)
    if stripped:
        engine = engine.model_copy(update={"weights": Bundle.open(COMPACT).manifest.documents[0]})
    return part.model_copy(update={"engine": engine, "backend": flavour})


def test_a_part_whose_answers_depend_on_neighbours_gets_one_at_a_time() -> None:
    manifest = Bundle.open(COMPACT).manifest
    audio = manifest.parts.audio.model_copy(update={"precision": "int8-dynamic"})
    manifest = manifest.model_copy(update={"parts": manifest.parts.model_copy(update={"audio": audio})})
    for config in (triton_config.part_config("x", audio), triton_config.recogniser_config(manifest)):
        assert config.max_batch_size == 1
        assert not config.HasField("dynamic_batching")


def changed(part: str, **engine: object) -> Bundle:
    bundle = Bundle.open(COMPACT)
    parts = bundle.manifest.parts
    made = with_engine(getattr(parts, part), engine["flavour"], ({},), stripped=bool(engine.get("stripped")))
    manifest: Manifest = bundle.manifest.model_copy(update={"parts": parts.model_copy(update={part: made})})
    return Bundle(bundle.folder, manifest, bundle.sha256)


def for_openvino(part: str) -> Bundle:
    bundle = Bundle.open(COMPACT)
    parts = bundle.manifest.parts
    made = getattr(parts, part).model_copy(update={"backend": "openvino"})
    manifest: Manifest = bundle.manifest.model_copy(update={"parts": parts.model_copy(update={part: made})})
    return Bundle(bundle.folder, manifest, bundle.sha256)


def test_engines_that_triton_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot hold parts for tensorrt-rtx, as the text part"):
        triton.export(changed("text", flavour="tensorrt-rtx"), tmp_path / "models")
    with pytest.raises(ExportError, match="cannot hold parts for openvino, as the audio part"):
        triton.export(for_openvino("audio"), tmp_path / "models")
    with pytest.raises(ExportError, match="export the run without --strip-weights"):
        triton.export(changed("text", flavour="tensorrt", stripped=True), tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_repository(tmp_path: Path) -> None:
    assert main([str(COMPACT), "--target", "triton", "--output", str(tmp_path / "models")]) == 0
    assert (tmp_path / "models" / "compact" / "1" / "model.py").is_file()


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--target", "triton", "--output", tmp_path / "models")
    run = small_run.write(tmp_path / "run")
    assert "is not a bundle" in refused(capsys, run, *flags)
    assert "leave it out" in refused(capsys, COMPACT, *flags, "--precision", "text=fp16")
    assert "--strip-weights is for --target tensorrt" in refused(capsys, COMPACT, *flags, "--strip-weights")
    for flag, value in (("--corpora", "x"), ("--samples", "8"), ("--licences", "x"), ("--face-detector", "x")):
        assert f"{flag} is for the export of a run" in refused(capsys, COMPACT, *flags, flag, value)
    assert "give a run folder" in refused(capsys, "hf://anna/compact", "--output", tmp_path / "models")
    damaged = Path(shutil.copytree(COMPACT, tmp_path / "damaged"))
    (damaged / "fusion.onnx").write_bytes(b"")
    assert "is damaged" in refused(capsys, damaged, *flags)
    assert not (tmp_path / "models").exists()
    assert "exists; choose another --output" in refused(capsys, COMPACT, "--target", "triton", "--output", run)
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)  # type: ignore[arg-type]
    assert 'pip install "telme-live[triton]"' in refused(capsys, COMPACT, *flags)


def test_a_full_disk_leaves_no_half_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with files_of_at_most(1_000_000):
        message = refused(capsys, COMPACT, "--target", "triton", "--output", tmp_path / "models")
    assert "Cannot write the model repository" in message
    assert list(tmp_path.iterdir()) == []
