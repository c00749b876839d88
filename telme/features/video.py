"""Video frames -> model input: the one implementation that training, export and the live system share."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from telme.bundle import VisualSpec
from telme.features.faces import Box, FaceDetector
from telme.features.sightings import Pixels, Sighting, look_at

FACES_MAX = 6  # of one picture, the largest: a crowd must not cost more time than there is
T = TypeVar("T")


class VideoBatch(NamedTuple):
    """Several utterances' pictures, padded to one array.

    frames: (B, N, C, S, S) float32, normalised; zero where there is no frame.
    mask: (B, N) float32, 1 for frames and 0 for padding, which comes last.
    """

    frames: npt.NDArray[np.float32]
    mask: npt.NDArray[np.float32]


class VideoFeatures:
    """Makes model input as a bundle's VisualSpec says. Thread-safe."""

    def __init__(self, spec: VisualSpec, detector: FaceDetector | None) -> None:
        """detector: needed when the input is face crops. Raises ValueError when it is then missing."""
        if spec.kind == "face_crops" and detector is None:
            raise ValueError("visual input of kind face_crops needs a face detector")
        self._spec = spec
        self._detector = detector if spec.kind == "face_crops" else None

    def prepare(self, rgb: Pixels) -> Pixels | None:
        """What the model will see of one picture.

        rgb: (H, W, 3) uint8.
        Returns (S, S) grey or (S, S, 3) in the specification's order of colours, uint8; None when the input is face
        crops and no face is seen.
        """
        if self._detector is None:
            return self._whole(rgb)
        boxes = self._boxes(rgb, self._detector)
        return self._crop(rgb, boxes[0]) if boxes else None

    def see(self, rgb: Pixels) -> list[Sighting]:
        """Every face of a picture, the largest first; the whole picture where the model sees whole pictures.

        rgb: (H, W, 3) uint8.
        """
        if self._detector is None:
            return [Sighting(self._whole(rgb))]
        boxes = self._boxes(rgb, self._detector)[:FACES_MAX]
        return [Sighting(self._crop(rgb, box), look_at(rgb, box)) for box in boxes]

    def _whole(self, rgb: Pixels) -> Pixels:
        _demand_picture(rgb)
        return fit_square(_centre(rgb), self._spec)

    def _crop(self, rgb: Pixels, box: Box) -> Pixels:
        return fit_square(crop_face(rgb, box, self._spec.margin), self._spec)

    @staticmethod
    def _boxes(rgb: Pixels, detector: FaceDetector) -> list[Box]:
        """The largest first."""
        _demand_picture(rgb)
        return sorted(detector.detect(rgb), key=lambda box: box.area, reverse=True)

    def select(self, frames: Sequence[T], count: int | None = None) -> list[T]:
        """At most `count` (default: the specification's number) of an utterance's frames, in order.

        Evenly spaced, or what the specification's `choice` says.
        """
        count = self._spec.frames if count is None else count
        if len(frames) <= count:
            return list(frames)
        if self._spec.choice == "multiples":
            step = len(frames) // count
            return list(frames[step - 1 :: step][:count])
        return [frames[(2 * i + 1) * len(frames) // (2 * count)] for i in range(count)]

    def demand_prepared(self, frame: object) -> None:
        """Raises TypeError or ValueError for anything else than `prepare` makes."""
        side = self._spec.size_px
        wanted = (side, side) if self._spec.channels == 1 else (side, side, 3)
        if not isinstance(frame, np.ndarray):
            raise TypeError(f"A frame must be an array that prepare_frame has made, not {type(frame).__name__}.")
        if frame.dtype != np.uint8 or frame.shape != wanted:
            raise ValueError(
                f"A frame must be uint8 of shape {wanted}, as prepare_frame makes it, not {frame.dtype} of shape "
                f"{frame.shape}."
            )

    def batch(self, utterances: Sequence[Sequence[Pixels]]) -> VideoBatch:
        """Put prepared frames side by side, as `pad` does."""
        return pad(utterances, self._spec)


def pad(utterances: Sequence[Sequence[Pixels]], spec: VisualSpec) -> VideoBatch:
    """Normalise prepared frames and pad them to the longest utterance. One may have none; N is at least 1."""
    longest = max(1, max((len(frames) for frames in utterances), default=1))
    frames = np.zeros((len(utterances), longest, spec.channels, spec.size_px, spec.size_px), np.float32)
    mask = np.zeros((len(utterances), longest), np.float32)
    for row, pictures in enumerate(utterances):
        if len(pictures):
            frames[row, : len(pictures)] = normalise(planes(np.stack(pictures)), spec)
            mask[row, : len(pictures)] = 1
    return VideoBatch(frames, mask)


def planes(pictures: Pixels) -> npt.NDArray[np.float32]:
    """Pictures (n, S, S) or (n, S, S, 3) uint8 to (n, C, S, S) float32 in [0, 1]."""
    channels_last = pictures if pictures.ndim == 4 else pictures[..., None]
    return np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def normalise(pixels: npt.NDArray[np.float32], spec: VisualSpec) -> npt.NDArray[np.float32]:
    """Pixels (n, C, S, S) in [0, 1] less the specification's mean, over its deviation."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (spec.mean, spec.std))
    return (pixels - mean) / std


def fit_square(rgb: Pixels, spec: VisualSpec) -> Pixels:
    """Scale a square picture (H, H, 3) to the specification's side and channels: (S, S) grey or (S, S, 3)."""
    side = spec.size_px
    if spec.channels == 1:
        picture = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    else:
        picture = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR) if spec.colours == "bgr" else rgb
    if picture.shape[0] == side:
        return np.ascontiguousarray(picture)
    method = cv2.INTER_AREA if picture.shape[0] > side else cv2.INTER_LINEAR  # INTER_AREA: no aliasing
    scaled: Pixels = cv2.resize(picture, (side, side), interpolation=method)
    return scaled


def crop_face(rgb: Pixels, face: Box, margin: float) -> Pixels:
    """The square around a face: its longer side plus `margin` of it on every side; (H, H, 3).

    Where the square leaves the picture, the picture's edge is continued.
    """
    side = max(1, round(max(face.width, face.height) * (1 + 2 * margin)))
    left = round((face.left + face.right - side) / 2)
    top = round((face.top + face.bottom - side) / 2)
    height, width = rgb.shape[:2]
    inside = rgb[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
    before = (max(0, -top), max(0, -left))
    after = (max(0, top + side - height), max(0, left + side - width))
    crop: Pixels = cv2.copyMakeBorder(inside, before[0], after[0], before[1], after[1], cv2.BORDER_REPLICATE)
    return crop


def _demand_picture(rgb: Pixels) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(f"a picture is (H, W, 3) uint8, not {rgb.shape} {rgb.dtype}")


def _centre(rgb: Pixels) -> Pixels:
    """The largest centred square: the same as scaling the shorter side first and cropping then."""
    height, width = rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return rgb[top : top + side, left : left + side]
