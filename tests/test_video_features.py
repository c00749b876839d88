from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import FACE_CROPS, FRAMES, detector, talking_heads

from telme.bundle import VisualSpec
from telme.features.faces import Box
from telme.features.video import VideoFeatures, crop_face


class Finder:
    """Stands in for the detector where the place of the face must be exact."""

    def __init__(self, *faces: Box) -> None:
        self._faces = list(faces)

    def detect(self, rgb: np.ndarray) -> list[Box]:
        return self._faces


def finding(*faces: Box, **changes: Any) -> VideoFeatures:
    return VideoFeatures(FACE_CROPS.model_copy(update=changes), Finder(*faces))


def gradient(height: int, width: int) -> np.ndarray:
    """Every pixel tells its place: red is its column, green its row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)


def test_a_face_crop_is_grey_and_square() -> None:
    crop = VideoFeatures(FACE_CROPS, detector()).prepare(talking_heads()[0])
    assert crop is not None
    assert crop.shape == (48, 48)
    assert crop.dtype == np.uint8
    assert crop.std() > 20


def test_colour_crops_where_the_specification_says_so() -> None:
    spec = FACE_CROPS.model_copy(update={"channels": 3, "mean": (0.5,) * 3, "std": (0.25,) * 3})
    crop = VideoFeatures(spec, detector()).prepare(talking_heads()[0])
    assert crop is not None
    assert crop.shape == (48, 48, 3)


def test_no_face_no_picture() -> None:
    assert VideoFeatures(FACE_CROPS, detector()).prepare(np.zeros((90, 160, 3), np.uint8)) is None


def test_takes_the_largest_face() -> None:
    small, large = Box(0, 0, 20, 20, 0.99), Box(100, 100, 148, 148, 0.6)
    crop = finding(small, large, channels=3).prepare(gradient(200, 200))
    assert crop is not None
    np.testing.assert_array_equal(crop, gradient(200, 200)[100:148, 100:148])


def test_the_margin_is_a_share_of_the_longer_side() -> None:
    crop = crop_face(gradient(200, 200), Box(90, 80, 110, 120, 1.0), margin=0.25)
    np.testing.assert_array_equal(crop, gradient(200, 200)[70:130, 70:130])


def test_beyond_the_border_the_edge_continues() -> None:
    crop = crop_face(gradient(100, 100), Box(-10, 80, 20, 110, 1.0), margin=0.0)
    assert crop.shape == (30, 30, 3)
    np.testing.assert_array_equal(crop[:20, 10:], gradient(100, 100)[80:100, 0:20])
    assert (crop[:, :10, 0] == 0).all()
    assert (crop[20:, :, 1] == 99).all()


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    edges=st.tuples(*[st.floats(0, 1)] * 4),
    margin=st.floats(0, 2),
)
def test_any_face_in_any_picture_gives_a_square(
    height: int, width: int, edges: tuple[float, float, float, float], margin: float
) -> None:
    left, right = sorted(edge * width for edge in edges[:2])
    top, bottom = sorted(edge * height for edge in edges[2:])
    crop = finding(Box(left, top, right, bottom, 1.0), margin=margin).prepare(gradient(height, width))
    assert crop is not None
    assert crop.shape == (48, 48)


def test_frames_are_scaled_and_centre_cropped() -> None:
    prepared = VideoFeatures(FRAMES, None).prepare(gradient(64, 128))
    assert prepared is not None
    assert prepared.shape == (32, 32, 3)
    # every pixel is the mean of two by two: columns 32 and 33, 34 and 35 ...
    assert prepared[0, :, 0].tolist() == pytest.approx(list(np.arange(32.5, 96, 2)), abs=0.5)
    assert prepared[:, 0, 1].tolist() == pytest.approx(list(np.arange(0.5, 64, 2)), abs=0.5)


def test_red_stays_red() -> None:
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 255
    prepared = VideoFeatures(FRAMES, None).prepare(red)
    assert prepared is not None
    frames, _ = VideoFeatures(FRAMES, None).batch([[prepared]])
    np.testing.assert_allclose(frames[0, 0, :, 0, 0], [(1 - 0.5) / 0.2, -0.4 / 0.3, -0.3 / 0.4], rtol=1e-6)


@pytest.mark.parametrize("picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_anything_but_an_rgb_picture_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        VideoFeatures(FRAMES, None).prepare(picture)


def test_face_crops_need_a_detector() -> None:
    with pytest.raises(ValueError, match="needs a face detector"):
        VideoFeatures(FACE_CROPS, None)


@given(length=st.integers(0, 200), count=st.integers(1, 20))
def test_frames_are_chosen_evenly_and_in_order(length: int, count: int) -> None:
    chosen = VideoFeatures(FRAMES, None).select(range(length), count)
    assert len(chosen) == min(length, count)
    steps = np.diff(chosen)
    if length > count:
        assert steps.size == 0 or steps.max() - steps.min() <= 1
        assert abs(chosen[0] - (length - 1 - chosen[-1])) <= 1  # as much is left out before as after
    else:
        assert chosen == list(range(length))


def test_the_specification_says_how_many() -> None:
    assert len(VideoFeatures(FRAMES, None).select(range(100))) == FRAMES.frames


@given(lengths=st.lists(st.integers(0, 5), max_size=4), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_batch_holds_what_each_holds_alone(lengths: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    features = finding()
    utterances = [[random.integers(0, 256, (48, 48), np.uint8) for _ in range(length)] for length in lengths]
    frames, mask = features.batch(utterances)
    longest = max(1, *lengths, 0) if lengths else 1
    assert frames.shape == (len(lengths), longest, 1, 48, 48)
    assert frames.dtype == mask.dtype == np.float32
    for row, pictures in enumerate(utterances):
        alone, _ = features.batch([pictures])
        assert mask[row].tolist() == [1.0] * len(pictures) + [0.0] * (longest - len(pictures))
        np.testing.assert_array_equal(frames[row, : len(pictures)], alone[0, : len(pictures)])
        assert not frames[row, len(pictures) :].any()


def test_pixels_are_normalised() -> None:
    spec: VisualSpec = FACE_CROPS
    frames, _ = finding().batch([[np.full((48, 48), 255, np.uint8)]])
    np.testing.assert_allclose(frames, (1 - spec.mean[0]) / spec.std[0], rtol=1e-6)
