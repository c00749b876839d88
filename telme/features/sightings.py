"""What a picture shows of a face: what the model sees of it, and what tells whether its mouth moves."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from telme.features.faces import Box

Pixels = npt.NDArray[np.uint8]

PATCH_PX = (32, 16)  # width and height: finer than a lip at the least size of a face, coarser than noise
# Top, bottom, left and right of a patch, as shares of the face's box.
MOUTH = (0.60, 0.95, 0.20, 0.80)
BROW = (0.10, 0.45, 0.15, 0.85)


@dataclass(frozen=True)
class Face:
    """Where a face is, and two patches of it, (16, 32) uint8 grey: its mouth, and its eyes and brow."""

    box: Box
    mouth: Pixels
    brow: Pixels


@dataclass(frozen=True)
class Sighting:
    """Model input of one picture, (S, S) or (S, S, 3) uint8. face: None where the model sees whole pictures."""

    pixels: Pixels
    face: Face | None = None

    @property
    def nbytes(self) -> int:
        patches = 0 if self.face is None else self.face.mouth.nbytes + self.face.brow.nbytes
        return self.pixels.nbytes + patches


def look_at(rgb: Pixels, box: Box) -> Face:
    """rgb: the picture (H, W, 3) uint8 that the face was found in."""
    return Face(box, _patch(rgb, box, MOUTH), _patch(rgb, box, BROW))


def mouth_motion(faces: Sequence[Face]) -> float:
    """How much more the mouth moves than the rest of the face, from picture to picture; at least two faces.

    Each patch's mean absolute change, over its own contrast; the brow's less, because a head that moves, or a box that
    trembles, changes both alike.
    """
    return _change([face.mouth for face in faces]) - _change([face.brow for face in faces])


def _change(patches: Sequence[Pixels]) -> float:
    stack = np.stack(patches).astype(np.float32)
    contrast = stack.std(axis=(1, 2)).mean()
    return float(np.abs(np.diff(stack, axis=0)).mean() / max(contrast, 1.0))


def _patch(rgb: Pixels, box: Box, shares: tuple[float, float, float, float]) -> Pixels:
    top, bottom, left, right = shares
    height, width = rgb.shape[:2]
    rows = _span(box.top + top * box.height, box.top + bottom * box.height, height)
    columns = _span(box.left + left * box.width, box.left + right * box.width, width)
    part = rgb[rows, columns]
    patch: Pixels = cv2.resize(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), PATCH_PX, interpolation=cv2.INTER_AREA)
    return patch


def _span(first: float, last: float, size: int) -> slice:
    """From the one to the other, but at least one pixel of the `size` that there are."""
    start = min(round(first), size - 1)
    return slice(start, max(start + 1, round(last)))
