"""Where the faces are in a picture: CenterFace (Xu et al., 2019, arXiv 1911.03599) on ONNX Runtime."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

LONGEST_SIDE_PX = 256  # faces from about 1/20 of the picture's width are found
STRIDE_PX = 4  # of the network's output
MULTIPLE_PX = 32  # the network halves its input five times


@dataclass(frozen=True)
class Box:
    """A face, in pixels of the picture, within it. score: in (0, 1]."""

    left: float
    top: float
    right: float
    bottom: float
    score: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def area(self) -> float:
        return self.width * self.height


class FaceDetector:
    """Finds faces. Thread-safe."""

    def __init__(
        self, path: Path | str, threshold: float = 0.5, threads: int = 1, longest_side_px: int = LONGEST_SIDE_PX
    ) -> None:
        """path: the detector as a bundle holds it. threshold: least score of a face. threads: cores for one picture.

        longest_side_px: larger pictures are scaled down to it.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._threshold = threshold
        self._longest_side_px = longest_side_px

    def detect(self, rgb: npt.NDArray[np.uint8]) -> list[Box]:
        """Faces in a picture (H, W, 3) of any size, the surest first."""
        height, width = rgb.shape[:2]
        small = _shrink(rgb, self._longest_side_px)
        image = np.zeros((1, 3, _padded(small.shape[0]), _padded(small.shape[1])), np.float32)
        image[0, :, : small.shape[0], : small.shape[1]] = small.transpose(2, 0, 1)
        heatmap, size, offset = self._session.run(["heatmap", "size", "offset"], {"image": image})
        boxes, scores = _decode(heatmap[0, 0], size[0], offset[0], self._threshold)
        boxes /= np.array([small.shape[1] / width, small.shape[0] / height] * 2, np.float32)
        boxes = boxes.clip(0, [width, height, width, height])
        kept = _suppress(boxes, scores)
        return [Box(*row) for row in np.column_stack([boxes[kept], scores[kept]]).tolist()]


def _shrink(rgb: npt.NDArray[np.uint8], longest_side_px: int) -> npt.NDArray[np.uint8]:
    """A picture whose longer side is at most `longest_side_px`."""
    height, width = rgb.shape[:2]
    longest = max(height, width)
    if longest <= longest_side_px:
        return rgb
    scale = longest_side_px / longest
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    step = max(1, longest // (4 * longest_side_px))  # averaging all of a 4K picture takes ten times as long
    shrunk: npt.NDArray[np.uint8] = cv2.resize(rgb[::step, ::step], size, interpolation=cv2.INTER_AREA)
    return shrunk


def _padded(side: int) -> int:
    return -(-side // MULTIPLE_PX) * MULTIPLE_PX


def _decode(
    heatmap: npt.NDArray[np.float32],
    size: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float32],
    threshold: float,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Boxes (n, 4) as left, top, right, bottom in input pixels, and their scores (n,).

    heatmap: (h, w), probability of a face's centre. size, offset: (2, h, w): log of height and width in strides,
    and the centre's distance from its cell in y and x, in strides (section 3 of the paper).
    """
    rows, columns = np.nonzero(heatmap > threshold)
    heights, widths = np.exp(size[:, rows, columns]) * STRIDE_PX
    y = (rows + offset[0, rows, columns] + 0.5) * STRIDE_PX
    x = (columns + offset[1, rows, columns] + 0.5) * STRIDE_PX
    boxes = np.stack([x - widths / 2, y - heights / 2, x + widths / 2, y + heights / 2], axis=1)
    return boxes.astype(np.float32), heatmap[rows, columns]


def _suppress(boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], overlap: float = 0.3) -> list[np.intp]:
    """Indices of the boxes to keep, the surest first: of boxes whose intersection over union reaches `overlap`, one."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[np.intp] = []
    remaining = np.argsort(-scores, kind="stable")
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        corner = np.maximum(boxes[best, :2], boxes[remaining, :2])
        sides = (np.minimum(boxes[best, 2:], boxes[remaining, 2:]) - corner).clip(min=0)
        shared = sides.prod(axis=1)
        remaining = remaining[shared < overlap * (area[best] + area[remaining] - shared)]
    return kept
