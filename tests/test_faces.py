from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import detector, published_detector, talking_heads

from telme.features.faces import Box, FaceDetector
from telme.training.errors import TrainingError
from telme.training.face_detector import LICENCE, prepare_face_detector


def corners(face: Box) -> np.ndarray:
    return np.array([face.left, face.top, face.right, face.bottom])


def test_finds_the_one_face_of_every_picture() -> None:
    for picture in talking_heads():
        faces = detector().detect(picture)
        assert len(faces) == 1
        face = faces[0]
        height, width = picture.shape[:2]
        assert face.score > 0.7
        assert 0 <= face.left < face.right <= width
        assert 0 <= face.top < face.bottom <= height
        assert 1.1 < face.height / face.width < 1.8
        assert face.area == face.width * face.height > 0.05 * width * height


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_a_blank_picture_has_no_face(colour: int) -> None:
    assert detector().detect(np.full((120, 160, 3), colour, np.uint8)) == []


def test_finds_every_face_the_surest_first() -> None:
    pair = np.hstack([talking_heads()[0], talking_heads()[-1]])
    faces = detector().detect(pair)
    assert len(faces) == 2
    assert faces[0].score >= faces[1].score
    left, right = sorted(faces, key=lambda face: face.left)
    assert left.right < pair.shape[1] / 2 < right.left


def test_a_4k_picture_gives_the_same_box() -> None:
    picture = talking_heads()[0]
    scale = 3840 / picture.shape[1]
    large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    (small_face,), (large_face,) = detector().detect(picture), detector().detect(large)
    assert corners(large_face) / scale == pytest.approx(corners(small_face), abs=0.04 * small_face.height)


def test_follows_a_face_that_moves() -> None:
    picture = talking_heads()[0]
    moved = cv2.warpAffine(picture, np.float32([[1, 0, 24], [0, 1, -16]]), picture.shape[1::-1])
    (before,), (after,) = detector().detect(picture), detector().detect(moved)
    assert corners(after) == pytest.approx(corners(before) + np.array([24, -16, 24, -16]), abs=0.05 * before.height)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400), seed=st.integers(0, 2**32 - 1))
def test_takes_a_picture_of_any_size(height: int, width: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    for face in detector().detect(noise):
        assert 0 <= face.left <= face.right <= width
        assert 0 <= face.top <= face.bottom <= height


def test_half_precision_weights_find_the_same_boxes(tmp_path: Path) -> None:
    """Against the published weights, read by the paper's formulas written once more."""
    prepare_face_detector(published_detector(), tmp_path / "detector.onnx")
    assert (tmp_path / "detector.onnx").stat().st_size < 0.52 * published_detector().stat().st_size
    converted = FaceDetector(tmp_path / "detector.onnx")
    errors = []
    for picture in talking_heads()[::4]:
        scale = 256 / max(picture.shape)
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        height, width = picture.shape[:2]
        expected = (published_box(small) / scale).clip(0, [width, height, width, height])
        errors.append(np.abs(corners(converted.detect(picture)[0]) - expected).max())
    assert np.median(errors) < 1  # two cells of nearly the same score may swap: then a box differs by a few pixels
    assert max(errors) < 10


def published_box(picture: np.ndarray) -> np.ndarray:
    """Corners of the surest face, by the detector as published."""
    height, width = (-(-side // 32) * 32 for side in picture.shape[:2])
    image = np.zeros((height, width, 3), np.float32)
    image[: picture.shape[0], : picture.shape[1]] = picture
    model = onnx.load(published_detector())
    names = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in names]
    for value in (*inputs, *model.graph.output):  # the file says 10 pictures of 32 x 32
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if axis != 1:
                dimension.dim_param = f"{value.name}_{axis}"
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    heat, size, offset = session.run(["537", "538", "539"], {"input.1": image.transpose(2, 0, 1)[None]})
    y, x = np.unravel_index(heat[0, 0].argmax(), heat.shape[2:])
    h, w = 4 * np.exp(size[0, :, y, x])
    cy, cx = 4 * (np.array([y, x]) + offset[0, :, y, x] + 0.5)
    return np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def test_another_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"not a model")
    for name in ("other.onnx", "missing.onnx"):
        with pytest.raises(TrainingError, match=r"is not CenterFace's ONNX file"):
            prepare_face_detector(tmp_path / name, tmp_path / "detector.onnx")


def test_its_licence_lies_beside_the_weights() -> None:
    assert "MIT License" in LICENCE.read_text(encoding="utf-8")
