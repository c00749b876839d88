"""The bundle that ships, on real speech, real faces and made-up dialogue."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from utterances import BAD_NEWS, GOOD_NEWS

from telme import bundle as bundles
from telme.bundle import Bundle, BundleError, UnsureText, sha256_of
from telme.features.text import Turn
from telme.labels import MELD
from telme.runtime.encoders import Encoded, Frame
from telme.runtime.fusion import Encodings, Fusion
from telme.runtime.onnxruntime import OnnxModel
from telme.runtime.recognition import Recognition
from telme.runtime.recognizer import Inputs, Recognizer, log_softmax


def recognize(recognizer: Recognizer, item: Inputs) -> Recognition:
    return recognizer.recognize(
        text=item.text, audio=item.audio, frames=item.frames, text_confidence=item.text_confidence
    )


def assert_alike(one: Recognition, other: Recognition, tolerance: float = 1e-4) -> None:
    assert one.modalities == other.modalities
    assert one.scores == pytest.approx(other.scores, abs=tolerance)
    for modality, scores in one.modality_scores.items():
        assert scores == pytest.approx(other.modality_scores[modality], abs=tolerance)


def test_an_answer_is_a_distribution_over_the_bundles_labels(
    recognizer: Recognizer, every_combination: list[Inputs]
) -> None:
    for item in every_combination:
        answer = recognize(recognizer, item)
        present = {
            name
            for name, value in {"text": item.text, "audio": item.audio, "visual": item.frames}.items()
            if value is not None
        }
        assert answer.modalities == present
        assert set(answer.elapsed_ms) == present | ({"fusion"} if "text" in present else set())
        assert all(elapsed > 0 for elapsed in answer.elapsed_ms.values())
        for scores in (answer.scores, *answer.modality_scores.values()):
            assert tuple(scores) == MELD
            assert math.fsum(scores.values()) == pytest.approx(1)
        assert answer.confidence == max(answer.scores.values()) == answer.scores[answer.emotion]
        assert -1 <= answer.valence <= 1
        assert -1 <= answer.arousal <= 1


def test_good_and_bad_news(recognizer: Recognizer) -> None:
    assert recognizer.recognize(text=GOOD_NEWS).emotion == "joy"
    assert recognizer.recognize(text=BAD_NEWS).emotion == "sadness"


def test_a_batch_answers_as_its_items_do(recognizer: Recognizer, every_combination: list[Inputs]) -> None:
    batch = every_combination * 6  # more than a part sees at once
    for item, among_others in zip(batch, recognizer.recognize_batch(batch), strict=True):
        assert_alike(recognize(recognizer, item), among_others)


def test_an_empty_batch(recognizer: Recognizer) -> None:
    assert recognizer.recognize_batch([]) == []


def test_stages_make_the_same_answer(
    recognizer: Recognizer, speech: npt.NDArray[np.float32], frames: list[Frame]
) -> None:
    staged = recognizer.fuse(
        text=recognizer.encode_text(BAD_NEWS),
        audio=recognizer.encode_audio(speech),
        visual=recognizer.encode_visual(frames),
    )
    assert_alike(staged, recognizer.recognize(text=BAD_NEWS, audio=speech, frames=frames), 1e-6)


def test_many_threads_get_the_same_answers(recognizer: Recognizer, every_combination: list[Inputs]) -> None:
    alone = [recognize(recognizer, item) for item in every_combination]
    with ThreadPoolExecutor(8) as pool:
        crowded = list(pool.map(lambda item: recognize(recognizer, item), every_combination * 8))
    for number, answer in enumerate(crowded):
        assert_alike(answer, alone[number % len(alone)], 1e-6)


def test_sound_and_picture_shift_a_text_only_so_far(
    recognizer: Recognizer, speech: npt.NDArray[np.float32], frames: list[Frame]
) -> None:
    alone = recognizer.recognize(text=BAD_NEWS)
    together = recognizer.recognize(text=BAD_NEWS, audio=speech, frames=frames)
    assert alone.scores != together.scores
    assert alone.modality_scores["text"] == pytest.approx(together.modality_scores["text"], abs=1e-6)


@pytest.fixture(scope="session")
def doubting(recognizer: Recognizer) -> Recognizer:
    """The same bundle, but doubtful text may be shifted up to twice its length."""
    bundle = recognizer.bundle
    fusion = bundle.manifest.fusion.model_copy(update={"unsure": UnsureText(beta=2.0, low=0.2, high=0.9)})
    return Recognizer.load(Bundle(bundle.folder, bundle.manifest.model_copy(update={"fusion": fusion}), bundle.sha256))


def test_without_a_rule_confidence_changes_nothing(recognizer: Recognizer, every_combination: list[Inputs]) -> None:
    assert recognizer.bundle.manifest.fusion.unsure is None
    encoded = [
        (
            recognizer.encode_text(item.text) if item.text else None,
            recognizer.encode_audio(item.audio) if item.audio is not None else None,
            recognizer.encode_visual(item.frames) if item.frames else None,
        )
        for item in every_combination
    ]
    for text, audio, visual in encoded:
        plain = recognizer.fuse(text=text, audio=audio, visual=visual)
        for confidence in (0.0, 0.4, 1.0):
            doubted = recognizer.fuse(text=text, audio=audio, visual=visual, text_confidence=confidence)
            assert doubted.scores == plain.scores


def test_the_model_is_told_the_same_bound_as_ever(recognizer: Recognizer) -> None:
    text, model = recognizer.encode_text(GOOD_NEWS), Recorder()
    spec = recognizer.bundle.manifest.fusion
    fusion = Fusion(model, 4, spec, {"audio": 3, "visual": 2})
    fusion.logits([Encodings(text), Encodings(text, text_confidence=0.1)])
    assert model.told["beta"].tobytes() == np.full(2, spec.beta, np.float32).tobytes()


class Recorder:
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.told: Mapping[str, npt.NDArray[Any]] = {}

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
        self.told = inputs
        return {"logits": np.zeros((len(inputs["beta"]), len(MELD)), np.float32)}


def test_sound_and_picture_shift_doubtful_text_further(
    recognizer: Recognizer, doubting: Recognizer, speech: npt.NDArray[np.float32], frames: list[Frame]
) -> None:
    def scores(of: Recognizer, confidence: float | None) -> npt.NDArray[np.float64]:
        answer = of.recognize(text=BAD_NEWS, audio=speech, frames=frames, text_confidence=confidence)
        return np.array(list(answer.scores.values()))

    plain = scores(recognizer, None)
    for confidence in (None, 0.9, 1.0):
        np.testing.assert_array_equal(scores(doubting, confidence), plain)
    shifts = [np.abs(scores(doubting, confidence) - plain).sum() for confidence in (0.8, 0.5, 0.2)]
    assert 0 < shifts[0] < shifts[1] < shifts[2]


def test_a_batch_of_different_confidences_answers_as_its_items_do(
    doubting: Recognizer, every_combination: list[Inputs]
) -> None:
    batch = [replace(item, text_confidence=c) for c in (None, 0.0, 0.55, 1.0) for item in every_combination]
    for item, among_others in zip(batch, doubting.recognize_batch(batch), strict=True):
        assert_alike(recognize(doubting, item), among_others)


def test_without_text_the_students_average(
    recognizer: Recognizer, speech: npt.NDArray[np.float32], frames: list[Frame]
) -> None:
    answer = recognizer.recognize(audio=speech, frames=frames)
    heads = [np.log(list(scores.values())) for scores in answer.modality_scores.values()]
    together = recognizer.bundle.manifest.calibration.audio_visual
    expected = np.exp(log_softmax(np.mean(heads, axis=0) / together))
    assert list(answer.scores.values()) == pytest.approx(expected)
    heard = recognizer.recognize(audio=speech)
    assert heard.scores == pytest.approx(heard.modality_scores["audio"])


@pytest.mark.parametrize(
    "item",
    [
        Inputs(),
        Inputs(text=[]),
        Inputs(text=[Turn("a", "Hello."), Turn("b", " \t\n")]),
        Inputs(audio=np.zeros(100, np.float32)),
        Inputs(audio=np.zeros(0, np.float32)),
        Inputs(frames=[]),
    ],
)
def test_nothing_to_recognise(recognizer: Recognizer, item: Inputs) -> None:
    with pytest.raises(ValueError, match="there is nothing to recognise"):
        recognize(recognizer, item)
    with pytest.raises(ValueError, match="there is nothing to recognise"):
        recognizer.recognize_batch([Inputs(text=GOOD_NEWS), item])


@pytest.mark.parametrize("audio", [np.zeros((2, 8000), np.float32), np.zeros(8000, np.int16)])
def test_audio_of_another_form(recognizer: Recognizer, audio: npt.NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="one channel of floats"):
        recognizer.recognize(audio=audio)


@pytest.mark.parametrize(
    ("item", "kind", "said"),
    [
        (Inputs(text="I got the job"), TypeError, "sequence of telme.features.text.Turn"),  # type: ignore[arg-type]
        (Inputs(text=[("a", "hi")]), TypeError, "sequence of telme.features.text.Turn"),  # type: ignore[list-item]
        (Inputs(text=[Turn("a", None)]), TypeError, "and a str"),  # type: ignore[arg-type]
        (Inputs(audio=[0.0] * 16_000), TypeError, "must be an array of samples, not list"),  # type: ignore[arg-type]
        (Inputs(audio=np.full(16_000, 1e20, np.float32)), ValueError, r"reaches 1e\+20 where full scale is 1"),
        (Inputs(audio=np.full(16_000, 1e300)), ValueError, "where full scale is 1"),  # type: ignore[arg-type]
        (Inputs(audio=np.full(16_000, np.nan, np.float32)), ValueError, "not finite"),
        (Inputs(frames=[np.zeros((7, 7), np.uint8)]), ValueError, r"uint8 of shape \(48, 48\)"),
        (Inputs(frames=[np.zeros((48, 48, 3), np.uint8)]), ValueError, r"not uint8 of shape \(48, 48, 3\)"),
        (Inputs(frames=[np.full((48, 48), np.nan)]), ValueError, "not float64"),  # type: ignore[list-item]
        (Inputs(frames=[None]), TypeError, "not NoneType"),  # type: ignore[list-item]
    ],
)
def test_what_is_no_input_is_refused_with_a_sentence(
    recognizer: Recognizer, item: Inputs, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        recognize(recognizer, item)


def test_a_part_that_gives_nan_is_never_an_answer(recognizer: Recognizer) -> None:
    encoded = recognizer.encode_text(GOOD_NEWS)
    assert encoded is not None
    with pytest.raises(BundleError, match="scores that are not finite"):
        recognizer.fuse(audio=replace(encoded, logits=encoded.logits * np.nan))


def test_silence_and_endless_speech_are_recognised(recognizer: Recognizer, speech: npt.NDArray[np.float32]) -> None:
    assert recognizer.recognize(audio=np.zeros(16_000, np.float32)).modalities == {"audio"}
    assert recognizer.recognize(audio=np.tile(speech, 10)).modalities == {"audio"}


def test_a_picture_without_a_face_counts_as_missing(recognizer: Recognizer) -> None:
    assert recognizer.prepare_frame(np.zeros((120, 160, 3), np.uint8)) is None


@settings(deadline=None, max_examples=25)
@given(st.lists(st.builds(Turn, st.text(max_size=5), st.text(max_size=300)), min_size=1, max_size=30))
def test_any_dialogue_is_recognised_or_refused(recognizer: Recognizer, turns: list[Turn]) -> None:
    encoded = recognizer.encode_text(turns)
    assert encoded is None or np.isfinite(encoded.logits).all()


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=9))
def test_log_softmax_is_a_log_distribution(logits: list[float]) -> None:
    found = log_softmax(np.array(logits, np.float32))
    assert np.exp(found).sum() == pytest.approx(1)
    assert np.argmax(found) in np.flatnonzero(found == found.max())


def test_temperatures_flatten_scores(recognizer: Recognizer) -> None:
    bundle = recognizer.bundle
    calibration = bundle.manifest.calibration.model_copy(update={"text": 100.0, "fused": 100.0})
    manifest = bundle.manifest.model_copy(update={"calibration": calibration})
    flat = Recognizer.load(Bundle(bundle.folder, manifest, bundle.sha256)).recognize(text=GOOD_NEWS)
    sharp = recognizer.recognize(text=GOOD_NEWS)
    assert flat.emotion == sharp.emotion
    assert flat.confidence < sharp.confidence
    assert flat.modality_scores["text"]["joy"] < 0.3


def test_the_students_together_have_a_temperature_of_their_own(
    recognizer: Recognizer, speech: npt.NDArray[np.float32], frames: list[Frame]
) -> None:
    bundle = recognizer.bundle
    calibration = bundle.manifest.calibration.model_copy(update={"audio_visual": 0.5})
    manifest = bundle.manifest.model_copy(update={"calibration": calibration})
    surer = Recognizer.load(Bundle(bundle.folder, manifest, bundle.sha256))
    answer = surer.recognize(audio=speech, frames=frames)
    heads = [np.log(list(scores.values())) for scores in answer.modality_scores.values()]
    assert list(answer.scores.values()) == pytest.approx(np.exp(log_softmax(np.sum(heads, axis=0))))
    alone = surer.recognize(audio=speech)
    assert alone.scores == pytest.approx(alone.modality_scores["audio"])


def test_a_backend_that_is_not_there() -> None:
    known = "auto, onnxruntime, openvino, tensorrt"
    with pytest.raises(ValueError, match=rf"There is no backend 'ncnn'.*choose one of {known}"):
        Recognizer.load(backend="ncnn")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles.COMPACT, tmp_path / "bundle"))


def test_a_damaged_part_is_never_loaded(copy: Path) -> None:
    with (copy / "audio.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\x00\xff")
    with pytest.raises(BundleError, match=r"audio part of .* is damaged"):
        Recognizer.load(copy)


def test_a_part_that_is_no_model(copy: Path) -> None:
    bundle = Bundle.open(copy)
    (copy / "text.onnx").write_bytes(b"not a model")
    with pytest.raises(BundleError, match="ONNX Runtime cannot load"):
        Recognizer.load(bundle)


def _tensor(manifest: dict[str, Any], part: str, name: str) -> dict[str, Any]:
    tensors = manifest["parts"][part]["inputs"] + manifest["parts"][part]["outputs"]
    return next(tensor for tensor in tensors if tensor["name"] == name)


MISMATCHES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("features as float32 .*80.* need .*128", lambda m: m["audio"].update(mel_bins=128)),
    (r"features as .* need float32 \(batch 1 to 32, steps", lambda m: m["audio"].update(kind="waveform")),
    ("steps 10 to 1000.* need .*steps 10 to 2000", lambda m: m["audio"].update(max_s=20.0)),
    ("frames .*48, 48.* need .*32, 32", lambda m: m["visual"].update(size_px=32)),
    ("need .*frames 1 to 1000", lambda m: m["visual"].update(frames=1000)),
    ("need .*tokens 1 to 8192", lambda m: m["text"].update(max_tokens=8192)),
    ("text_vector .*255.* need .*256", lambda m: _tensor(m, "fusion", "text_vector").update(shape=["batch", 255])),
    ("audio_vector .*x without range", lambda m: _tensor(m, "fusion", "audio_vector").update(shape=["batch", "x"])),
    ("no vector of a fixed length", lambda m: _tensor(m, "audio", "vector").update(shape=["batch", "x"])),
    ("batch without range", lambda m: _tensor(m, "text", "input_ids").update(ranges={})),
    ("has no tensors where", lambda m: m["parts"]["visual"].update(inputs=[])),
]


@pytest.mark.parametrize(("said", "change"), MISMATCHES, ids=[said for said, _ in MISMATCHES])
def test_parts_that_do_not_take_what_the_specifications_make(
    copy: Path, said: str, change: Callable[[dict[str, Any]], object]
) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=said) as refusal:
        Recognizer.load(copy)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", ["{}", "hello"])
def test_a_tokenizer_that_is_none(copy: Path, content: str) -> None:
    (copy / "tokenizer.json").write_text(content)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["text"]["tokenizer_sha256"] = sha256_of(copy / "tokenizer.json")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="is no tokenizer"):
        Recognizer.load(copy)


def test_a_part_that_is_another_model(copy: Path) -> None:
    bundle = Bundle.open(copy)
    parts = bundle.manifest.parts
    swapped = parts.model_copy(update={"text": parts.text.model_copy(update={"file": parts.audio.file})})
    other = Bundle(copy, bundle.manifest.model_copy(update={"parts": swapped}), bundle.sha256)
    with pytest.raises(BundleError, match=r"has inputs .* the manifest says"):
        Recognizer.load(other)


@pytest.mark.parametrize("change", [{"shape": ("batch", 5)}, {"shape": ("batch",)}, {"dtype": "float16"}])
def test_a_part_whose_tensors_have_another_form(copy: Path, change: dict[str, Any]) -> None:
    bundle = Bundle.open(copy)
    parts = bundle.manifest.parts
    first, *others = parts.fusion.inputs
    fusion = parts.fusion.model_copy(update={"inputs": (first.model_copy(update=change), *others)})
    changed = bundle.manifest.model_copy(update={"parts": parts.model_copy(update={"fusion": fusion})})
    with pytest.raises(BundleError, match=r"fusion.onnx has text_vector as tensor.float. of shape \('batch', 256\)"):
        OnnxModel(copy / "fusion.onnx", changed.parts.fusion, threads=1)


def test_warming_up_takes_every_part(recognizer: Recognizer) -> None:
    recognizer.warm_up()


def test_encoded_vectors_have_the_size_that_the_fusion_reads(
    recognizer: Recognizer, speech: npt.NDArray[np.float32]
) -> None:
    encoded = recognizer.encode_audio(speech)
    assert isinstance(encoded, Encoded)
    shapes = {tensor.name: tensor.shape for tensor in recognizer.bundle.manifest.parts.fusion.inputs}
    assert encoded.vector.shape == shapes["audio_vector"][1:]
    assert encoded.logits.shape == (len(MELD),)
    assert recognizer.fuse(audio=replace(encoded, elapsed_ms=3.0)).elapsed_ms == {"audio": 3.0}
