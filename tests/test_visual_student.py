from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from telme.corpora import fer2013
from telme.corpora.fer2013 import Faces
from telme.labels import MELD
from telme.models.visual import VisualDimensions, VisualStudent
from telme.training import checkpoint, config, visual
from telme.training.augment_faces import augment
from telme.training.config import FaceAugmentation, Schedule, TrainingConfig, VisualSettings
from telme.training.errors import TrainingError

COMPACT = Path(__file__).parents[1] / "configs" / "compact.yaml"
FACE_CNN = {"model_type": "face_cnn", "channels": 1, "stem": 4, "widths": [8, 16], "mirrored": True}
TIMESFORMER = {
    "model_type": "timesformer",
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 3,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
BACKBONES = [pytest.param(FACE_CNN, id="face_cnn"), pytest.param(TIMESFORMER, id="timesformer")]


def student(backbone: dict[str, Any]) -> VisualStudent:
    torch.manual_seed(0)
    model = VisualStudent(VisualDimensions(backbone, vector=6, labels=7))
    for module in model.modules():  # as after training: statistics that are not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def utterances(lengths: list[int], backbone: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Frames with noise where there is no frame, and their mask."""
    channels = 1 if backbone is FACE_CNN else 3
    frames = torch.randn(len(lengths), max(1, *lengths), channels, 16, 16)
    mask = (torch.arange(frames.shape[1]) < torch.tensor(lengths)[:, None]).float()
    return frames, mask


@pytest.mark.parametrize("backbone", BACKBONES)
def test_shapes(backbone: dict[str, Any]) -> None:
    vector, logits = student(backbone)(*utterances([3, 1], backbone))
    assert vector.shape == (2, 6)
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_utterance_is_the_same_alone_and_in_any_batch(backbone: dict[str, Any]) -> None:
    frames, mask = utterances([2, 3, 1], backbone)
    with torch.inference_mode():
        vectors, logits = student(backbone)(frames, mask)
        for row, length in enumerate([2, 3, 1]):
            vector, alone = student(backbone)(frames[row : row + 1, :length], mask[row : row + 1, :length])
            torch.testing.assert_close(vector[0], vectors[row])
            torch.testing.assert_close(alone[0], logits[row])


def test_a_mirrored_face_is_the_same_to_a_trained_student() -> None:
    frames, mask = utterances([2], FACE_CNN)
    model, one_view = student(FACE_CNN), student({**FACE_CNN, "mirrored": False})
    with torch.inference_mode():
        vector, _ = model(frames, mask)
        torch.testing.assert_close(model(frames.flip(4), mask)[0], vector)
        views = [one_view(pictures, mask)[0] for pictures in (frames, frames.flip(4))]
        torch.testing.assert_close((views[0] + views[1]) / 2, vector)
        assert not torch.allclose(views[0], views[1])
        for each in (model, one_view):
            each.train()
        torch.testing.assert_close(model(frames, mask)[0], one_view(frames, mask)[0])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_without_frames_the_answer_is_still_a_number(backbone: dict[str, Any]) -> None:
    vector, logits = student(backbone)(*utterances([0, 2], backbone))
    assert vector.isfinite().all()
    assert logits.isfinite().all()


def test_a_face_utterance_is_the_mean_of_its_frames() -> None:
    frames, mask = utterances([4], FACE_CNN)
    with torch.inference_mode():
        together, _ = student(FACE_CNN)(frames, mask)
        singly, _ = student(FACE_CNN)(frames[0][:, None], torch.ones(4, 1))
    torch.testing.assert_close(together[0], singly.mean(dim=0))


def test_a_dim_picture_is_seen_like_a_bright_one() -> None:
    frames, mask = utterances([2], FACE_CNN)
    with torch.inference_mode():
        bright, _ = student(FACE_CNN)(frames, mask)
        dim, _ = student(FACE_CNN)(0.4 * frames - 0.7, mask)
    torch.testing.assert_close(dim, bright, atol=5e-3, rtol=0)


def test_the_last_frame_of_a_short_clip_is_repeated() -> None:
    frames, mask = utterances([2], TIMESFORMER)
    repeated = torch.cat([frames, frames[:, -1:]], dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(student(TIMESFORMER)(frames, mask), student(TIMESFORMER)(repeated, torch.ones(1, 3)))


def test_the_compact_student_is_small() -> None:
    settings = config.load(COMPACT).visual
    assert settings is not None
    model = VisualStudent(VisualDimensions(settings.backbone, settings.vector, len(MELD)))
    assert sum(parameter.numel() for parameter in model.parameters()) < 4_000_000


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(12, 64), count=st.integers(1, 5))
def test_varied_faces_stay_pictures(seed: int, size: int, count: int) -> None:
    faces = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed))
    before = faces.clone()
    first, second = (augment(faces, FaceAugmentation(), torch.Generator().manual_seed(seed)) for _ in range(2))
    assert first.shape == faces.shape
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, second)
    assert torch.equal(faces, before)


def test_no_variation_only_mirrors() -> None:
    still = FaceAugmentation(rotation_deg=0, scale=0, shift=0, exposure=0, coarse_share=0, erased_share=0)
    faces = torch.rand(40, 1, 16, 16)
    varied = augment(faces, still, torch.Generator().manual_seed(0))
    same = (varied - faces).abs().amax(dim=(1, 2, 3)) < 1e-4
    mirrored = (varied - faces.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (same ^ mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_covering_hides_a_part_of_about_as_many_as_asked() -> None:
    covering = FaceAugmentation(rotation_deg=0, scale=0, shift=0, exposure=0, coarse_share=0, erased_share=0.4)
    varied = augment(torch.ones(500, 1, 24, 24), covering, torch.Generator().manual_seed(0))
    hidden = (varied == 0.5).float().mean(dim=(1, 2, 3))
    assert 0.3 < (hidden > 0).float().mean() < 0.5
    assert hidden.max() < 0.25


def tiny_run(tmp_path: Path, corpora: Path) -> TrainingConfig:
    compact = config.load(COMPACT).visual
    assert compact is not None
    changes = {
        "backbone": {"model_type": "face_cnn", "channels": 1, "stem": 8, "widths": [16, 32]},
        "vector": 8,
        "augmentation": FaceAugmentation(
            rotation_deg=0, scale=0, shift=0.05, exposure=0, coarse_share=0, erased_share=0
        ),
        "schedule": Schedule(epochs=6, batch=32, learning_rate=1e-2),
    }
    return TrainingConfig(name="tiny", output=tmp_path, corpora=corpora, visual=compact.model_copy(update=changes))


@pytest.mark.corpora
@pytest.mark.slow
def test_learns_from_real_faces(tmp_path: Path, corpora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network, 2,500 faces and a few seconds: better than always saying the commonest emotion."""
    everything = fer2013.load(corpora / "fer2013")
    kept = [face for face in everything.corpus.utterances if int(face.id) % 10 == 0]
    few = Faces(fer2013.Corpus("FER2013", fer2013.LICENCE, kept), everything.images)
    monkeypatch.setattr(fer2013, "load", lambda folder: few)
    visual.train(tiny_run(tmp_path, corpora))
    about, model = checkpoint.load(tmp_path / "visual", VisualStudent, VisualDimensions)
    scores = {score.data.split(",")[0]: score for score in about.scores if score.metric == "accuracy"}
    _, labels = few.split("test")
    commonest = max(labels.count(label) for label in MELD) / len(labels)
    assert scores["FER2013 test"].value > commonest + 0.03
    assert scores["FER2013 test"].interval is not None
    vector, _ = model(torch.zeros(1, 1, 1, 48, 48), torch.ones(1, 1))
    assert vector.shape == (1, 8)


@pytest.mark.corpora
def test_epochs_differ_and_each_is_always_the_same(corpora: Path) -> None:
    settings = config.load(COMPACT).visual
    assert isinstance(settings, VisualSettings)
    task = visual.VisualTask(student(FACE_CNN), fer2013.load(corpora / "fer2013"), settings, seed=1)
    first, again, second = (next(iter(task.train_batches(epoch))) for epoch in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0])
    assert len(task.train_batches(0)) == len(task.train) // settings.schedule.batch
    frames, mask, truth = first
    assert frames.shape == (settings.schedule.batch, 1, 1, 48, 48)
    assert mask.shape == (settings.schedule.batch, 1)
    assert set(np.unique(truth)) <= set(range(7))


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ({"wdths": [8, 16]}, "unexpected keyword argument 'wdths'"),
        ({"widths": [8, -16]}, "describes no network"),
        ({"model_type": "facecnn"}, "facecnn"),
    ],
)
def test_a_backbone_that_is_none_is_one_sentence(
    mistake: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = Faces(fer2013.Corpus("FER2013", fer2013.LICENCE, []), np.zeros((0, 48, 48), np.uint8))
    monkeypatch.setattr(fer2013, "load", lambda folder: nobody)
    run = tiny_run(tmp_path, tmp_path)
    assert run.visual is not None
    with pytest.raises(TrainingError, match=said):
        visual.train(
            run.model_copy(update={"visual": run.visual.model_copy(update={"backbone": {**FACE_CNN, **mistake}})})
        )


def test_whole_pictures_cannot_be_trained_on_crops(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tmp_path)
    assert run.visual is not None
    frames = run.visual.input.model_copy(update={"kind": "frames"})
    run = run.model_copy(update={"visual": run.visual.model_copy(update={"input": frames})})
    with pytest.raises(TrainingError, match="face crops, not frames"):
        visual.train(run)
