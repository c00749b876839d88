"""Which of several faces an utterance belongs to: followed from picture to picture, and the one whose mouth moves."""

from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.speaking_face import follow, speaking_face
from telme.bundle import COMPACT, Bundle
from telme.features.faces import Box, FaceDetector
from telme.features.sightings import Face, Pixels, Sighting, look_at, mouth_motion
from telme.features.video import FACES_MAX, VideoFeatures

DEMO = Path(__file__).parents[1] / "demo" / "conversation.mp4"
RATE_HZ = 5


@pytest.fixture(scope="module")
def video() -> VideoFeatures:
    bundle = Bundle.open(COMPACT)
    return VideoFeatures(bundle.manifest.visual, FaceDetector(COMPACT / "face_detector.onnx"))


@pytest.fixture(scope="module")
def talking() -> list[Pixels]:
    """Two seconds of a talking head, five pictures a second."""
    found: list[Pixels] = []
    with av.open(str(DEMO)) as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= 0.6 + len(found) / RATE_HZ:
                found.append(frame.to_ndarray(format="rgb24"))
            if len(found) == 2 * RATE_HZ:
                return found
    raise AssertionError("the demo is too short")


def sighting(value: int, x: float, y: float = 50.0, moves: int = 0, side: float = 20.0) -> Sighting:
    """A face that looks like `value` at a place; its mouth differs by `moves` from the mouth of a still one."""
    stripes = np.tile(np.array([60, 160], np.uint8), (16, 16))
    mouth = (stripes + np.uint8(moves)).astype(np.uint8)
    box = Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2, 1.0)
    return Sighting(np.full((2, 2), value, np.uint8), Face(box, mouth, stripes))


def shown(pictures: Sequence[Sequence[Sighting]]) -> list[int]:
    return [int(pixels[0, 0]) for pixels in speaking_face(pictures).pixels]


@given(st.integers(1, 30), st.floats(0, 500))
def test_the_only_face_of_each_picture_is_taken_wherever_it_is(count: int, step: float) -> None:
    assert shown([[sighting(n, n * step)] for n in range(count)]) == list(range(count))


def test_whole_pictures_are_taken_as_they_are() -> None:
    assert shown([[Sighting(np.full((2, 2), n, np.uint8))] for n in range(4)]) == [0, 1, 2, 3]


@given(
    st.integers(3, 20),
    st.integers(2, 5),
    st.data(),
)
def test_the_face_whose_mouth_moves_is_followed_in_whatever_order_faces_come(
    count: int, people: int, data: st.DataObject
) -> None:
    speaker = data.draw(st.integers(0, people - 1))
    pictures = []
    for n in range(count):
        faces = [sighting(p, 40.0 * p + n % 3, moves=30 * (n % 2) * (p == speaker)) for p in range(people)]
        pictures.append(data.draw(st.permutations(faces)))
    assert shown(pictures) == [speaker] * count


def test_a_face_that_is_gone_for_a_while_is_the_same_one_when_it_is_back() -> None:
    pictures = [[sighting(1, 20, moves=30 * (n % 2)), sighting(2, 80)] for n in range(8)]
    pictures[3] = pictures[4] = [sighting(2, 80)]
    assert [len(track) for track in follow(pictures)] == [6, 8]
    assert shown(pictures) == [1] * 6


def test_seats_are_where_people_are_in_the_end() -> None:
    pictures = [[sighting(1, 20 + n, moves=30 * (n % 2)), sighting(2, 80 - n)] for n in range(8)]
    seats = speaking_face(pictures).seats
    assert seats is not None
    assert (seats.speaker.left, [box.left for box in seats.listeners]) == (17, [63])
    assert seats.nearest(Box(60, 40, 80, 60, 1.0)) == seats.listeners[0]
    assert seats.nearest(Box(22, 40, 42, 60, 1.0)) == seats.speaker
    assert seats.nearest(Box(400, 40, 420, 60, 1.0)) is None


def test_where_only_one_is_seen_throughout_nobody_is_known_to_listen() -> None:
    pictures = [[sighting(1, 20)] for _ in range(8)]
    pictures[4].append(sighting(2, 80))
    assert speaking_face(pictures).seats is None
    assert speaking_face([[sighting(1, 20)]]).seats is None


def test_who_walks_through_the_picture_is_not_the_speaker() -> None:
    pictures = [[sighting(1, 20, moves=5 * (n % 2))] for n in range(10)]
    for n in range(3, 6):
        pictures[n].append(sighting(2, 80, moves=90 * (n % 2)))
    assert shown(pictures) == [1] * 10


def test_the_largest_face_is_taken_where_nobody_is_seen_for_long() -> None:
    assert shown([[sighting(1, 20), sighting(2, 80, moves=90 * n)] for n in range(2)]) == [1, 1]


@given(st.floats(0, 63), st.floats(0, 47), st.floats(0, 1), st.floats(0, 1))
def test_a_face_at_the_edge_has_a_mouth_too(left: float, top: float, width: float, height: float) -> None:
    box = Box(left, top, left + width * (64 - left), top + height * (48 - top), 1.0)
    face = look_at(np.full((48, 64, 3), 7, np.uint8), box)
    assert face.mouth.shape == face.brow.shape == (16, 32)
    assert mouth_motion([face, face]) == 0


def test_a_crowd_is_bounded(video: VideoFeatures, talking: list[Pixels], monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = video.see(talking[0])
    assert one.face is not None
    monkeypatch.setattr(FaceDetector, "detect", lambda self, rgb: [one.face.box] * 50)
    assert len(video.see(talking[0])) == FACES_MAX


@pytest.mark.parametrize("speaks_left", [True, False])
def test_of_two_real_faces_the_one_that_talks_is_found(
    video: VideoFeatures, talking: list[Pixels], speaks_left: bool
) -> None:
    """The other one is the same face as a mirrored still, which is nearer to the camera and trembles."""
    random = np.random.default_rng(0)
    height, width = talking[0].shape[:2]
    pictures = []
    for picture in talking:
        still = np.roll(cv2.flip(talking[0], 1), random.integers(-2, 3, 2), axis=(0, 1))
        grain = random.normal(0, 4, still.shape)
        listener = cv2.resize((still + grain).clip(0, 255).astype(np.uint8), None, fx=1.2, fy=1.2)[:height]
        pictures.append(np.hstack([picture, listener] if speaks_left else [listener, picture]))
    seen = [video.see(picture) for picture in pictures]
    assert all(len(sightings) == 2 for sightings in seen)
    edge = width if speaks_left else pictures[0].shape[1] - width
    expected = [
        next(s.pixels for s in sightings if s.face is not None and (s.face.box.left < edge) == speaks_left)
        for sightings in seen
    ]
    face = speaking_face(seen)
    for found, wanted in zip(face.pixels, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert face.seats is not None
    assert [(box.left < edge) == speaks_left for box in (face.seats.speaker, *face.seats.listeners)] == [True, False]
