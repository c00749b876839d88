"""MTCNN (Zhang et al., 2016, arXiv 1604.02878) on ONNX Runtime, to compare the shipped face detector with.

The weights are those of the Python package `facenet-pytorch` (MIT): three state dicts in `facenet_pytorch/data`.
`pip install --no-deps facenet-pytorch` is enough, for nothing of it is imported. Thresholds, pyramid and boxes are
that package's; pictures are scaled by averaging areas, there as here.
"""

import io
import warnings
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import Tensor, nn

from telme.features.faces import Box

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

WINDOW_PX = 12  # what the first network looks at
SHRINK = 0.709  # from one level of the pyramid to the next
STRIDE_PX = 2  # of the first network's output
THRESHOLDS = (0.6, 0.7, 0.7)


class Mtcnn:
    """Three networks: one proposes faces at all sizes, two look closer at what is left."""

    def __init__(self, weights: Path, longest_side_px: int, smallest_share: float) -> None:
        """weights: folder with pnet.pt, rnet.pt and onet.pt.

        longest_side_px: larger pictures are scaled down to it. smallest_share: size of the smallest faces to be found,
        as a share of the picture's longer side.
        """
        self._longest_side_px = longest_side_px
        self._smallest_share = smallest_share
        self._propose = _session(_Net.proposing(), weights / "pnet.pt", 40)
        self._refine = _session(_Net.refining(), weights / "rnet.pt", 24)
        self._decide = _session(_Net.deciding(), weights / "onet.pt", 48)

    def detect(self, rgb: Picture) -> list[Box]:
        """Faces in a picture (H, W, 3), the surest first."""
        height, width = rgb.shape[:2]
        scale = min(1.0, self._longest_side_px / max(height, width))
        small = _scaled(rgb, (max(1, round(height * scale)), max(1, round(width * scale))))
        boxes = self._proposals(small)
        boxes = _looked_at(small, boxes, 24, self._refine, THRESHOLDS[1])
        boxes = _squared(boxes[_suppress(boxes, 0.7)])
        boxes = _looked_at(small, boxes, 48, self._decide, THRESHOLDS[2])
        boxes = boxes[_suppress(boxes, 0.7, of_smaller=True)]
        boxes[:, :4] = (boxes[:, :4] / scale).clip(0, [width, height, width, height])
        return [Box(*row) for row in boxes.tolist()]

    def _proposals(self, picture: Picture) -> Floats:
        height, width = picture.shape[:2]
        scale = WINDOW_PX / (self._smallest_share * max(height, width))
        found = [np.zeros((0, 9), np.float32)]
        while min(height, width) * scale >= WINDOW_PX:
            level = _scaled(picture, (int(height * scale + 1), int(width * scale + 1)))
            shift, score = _run(self._propose, level[None])
            rows, columns = np.nonzero(score[0, 1] >= THRESHOLDS[0])
            corner = np.stack([columns, rows], axis=1) * STRIDE_PX
            windows = np.hstack([(corner + 1) // scale, (corner + WINDOW_PX) // scale])
            level_found = np.hstack([windows, score[0, 1, rows, columns, None], shift[0, :, rows, columns]])
            found.append(level_found[_suppress(level_found, 0.5)].astype(np.float32))
            scale *= SHRINK
        boxes = np.concatenate(found)
        boxes = boxes[_suppress(boxes, 0.7)]
        sides = np.tile(boxes[:, 2:4] - boxes[:, :2], 2)
        return _squared(np.hstack([boxes[:, :4] + boxes[:, 5:9] * sides, boxes[:, 4:5]]))


class _Net(nn.Module):
    """One of the three: a trunk, and heads for the score and for the shift of the box."""

    def __init__(self, trunk: dict[str, nn.Module], score: tuple[str, nn.Module], shift: tuple[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(OrderedDict(trunk))
        self.score, self.shift = score[1], shift[1]
        self.named = {score[0]: self.score, shift[0]: self.shift, **trunk}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.trunk(x)
        return self.shift(y), self.score(y).softmax(dim=1)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for name, module in self.named.items():
            its = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
            module.load_state_dict(its)

    @classmethod
    def proposing(cls) -> "_Net":
        trunk = {**_stage(1, 3, 10, 3, pool=2), **_stage(2, 10, 16, 3), **_stage(3, 16, 32, 3)}
        return cls(trunk, ("conv4_1", nn.Conv2d(32, 2, 1)), ("conv4_2", nn.Conv2d(32, 4, 1)))

    @classmethod
    def refining(cls) -> "_Net":
        trunk = {**_stage(1, 3, 28, 3, pool=3), **_stage(2, 28, 48, 3, pool=3), **_stage(3, 48, 64, 2)}
        trunk |= {"flat": _Flat(), "dense4": nn.Linear(576, 128), "prelu4": nn.PReLU(128)}
        return cls(trunk, ("dense5_1", nn.Linear(128, 2)), ("dense5_2", nn.Linear(128, 4)))

    @classmethod
    def deciding(cls) -> "_Net":
        trunk = {**_stage(1, 3, 32, 3, pool=3), **_stage(2, 32, 64, 3, pool=3), **_stage(3, 64, 64, 3, pool=2)}
        trunk |= {**_stage(4, 64, 128, 2), "flat": _Flat(), "dense5": nn.Linear(1152, 256), "prelu5": nn.PReLU(256)}
        return cls(trunk, ("dense6_1", nn.Linear(256, 2)), ("dense6_2", nn.Linear(256, 4)))


class _Flat(nn.Module):
    """The weights were trained with the picture's axes the other way round."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 2, 1).flatten(1)


def _stage(number: int, inputs: int, outputs: int, kernel: int, pool: int = 0) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {
        f"conv{number}": nn.Conv2d(inputs, outputs, kernel),
        f"prelu{number}": nn.PReLU(outputs),
    }
    if pool:
        layers[f"pool{number}"] = nn.MaxPool2d(pool, 2, ceil_mode=True)
    return layers


def _session(net: _Net, weights: Path, side: int) -> ort.InferenceSession:
    net.load(weights)
    file = io.BytesIO()
    axes = {"x": {0: "n", 2: "h", 3: "w"}} if side == 40 else {"x": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is called old
        example = torch.zeros(2, 3, side, side)
        torch.onnx.export(net.eval(), (example,), file, input_names=["x"], dynamic_axes=axes, dynamo=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, pictures: Picture) -> tuple[Floats, Floats]:
    """pictures: (n, h, w, 3). Shifts and scores."""
    x = (pictures.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) * np.float32(1 / 128)
    shift, score = session.run(None, {"x": x})
    return shift, score


def _scaled(picture: Picture, shape: tuple[int, int]) -> Picture:
    return np.asarray(cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_AREA))


def _looked_at(picture: Picture, boxes: Floats, side: int, session: ort.InferenceSession, threshold: float) -> Floats:
    """Boxes (n, 5) that the network takes for faces, moved as it says."""
    inside = list(_cut(picture, boxes))
    if not inside:
        return np.zeros((0, 5), np.float32)
    rows = [row for row, _ in inside]
    shift, score = _run(session, np.stack([_scaled(cut, (side, side)) for _, cut in inside]))
    kept = score[:, 1] > threshold
    boxes, shift = boxes[rows][kept], shift[kept]
    sides = np.tile(boxes[:, 2:4] - boxes[:, :2] + 1, 2)
    return np.hstack([boxes[:, :4] + shift * sides, score[kept, 1:]]).astype(np.float32)


def _cut(picture: Picture, boxes: Floats) -> Iterable[tuple[int, Picture]]:
    height, width = picture.shape[:2]
    for row, (left, top, right, bottom) in enumerate(boxes[:, :4].astype(int)):
        cut = picture[max(top, 1) - 1 : min(bottom, height), max(left, 1) - 1 : min(right, width)]
        if cut.size:
            yield row, cut


def _squared(boxes: Floats) -> Floats:
    """The same centres, both sides as long as the longer one."""
    centre = (boxes[:, :2] + boxes[:, 2:4]) / 2
    half = (boxes[:, 2:4] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.hstack([centre - half, centre + half, boxes[:, 4:5]]).astype(np.float32)


def _suppress(boxes: npt.NDArray[np.floating], overlap: float, of_smaller: bool = False) -> list[int]:
    """Of boxes (n, 5 …) that overlap more, the surest. of_smaller: as a share of the smaller box, not of the union."""
    area = (boxes[:, 2:4] - boxes[:, :2] + 1).prod(axis=1)
    kept = []
    remaining = np.argsort(-boxes[:, 4], kind="stable")
    while len(remaining):
        best, remaining = int(remaining[0]), remaining[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[remaining, :2])
        high = np.minimum(boxes[best, 2:4], boxes[remaining, 2:4])
        shared = (high - low + 1).clip(min=0).prod(axis=1)
        whole = np.minimum(area[best], area[remaining]) if of_smaller else area[best] + area[remaining] - shared
        remaining = remaining[shared <= overlap * whole]
    return kept
