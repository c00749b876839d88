"""A small residual network for face crops (after He et al., CVPR 2016, arXiv 1512.03385)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FLAT = 1e-3  # variance at which a picture counts as flat, so that its noise is not blown up


class FaceCNN(nn.Module):
    """Equal contrast, a convolution at full size, residual blocks that each halve it, and the mean over places.

    Every picture is brought to zero mean and unit deviation first: a dim room must not look like another emotion.
    """

    def __init__(self, channels: int, stem: int, widths: Sequence[int], mirrored: bool = False) -> None:
        """stem: width of the first convolution. widths: of the blocks; the last is the output's size.

        mirrored: a trained network sees each picture mirrored as well, and gives the mean of both views. In training,
            where pictures are mirrored at random, one view is enough.
        """
        super().__init__()
        self.mirrored = mirrored
        self.contrast = nn.GroupNorm(1, channels, eps=FLAT, affine=False)
        self.stem = nn.Sequential(_convolution(channels, stem), nn.ReLU())
        inputs = (stem, *widths[:-1])
        self.blocks = nn.Sequential(*(HalvingBlock(a, b) for a, b in zip(inputs, widths, strict=True)))
        self.width = widths[-1]

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures: (B, channels, H, W). Returns (B, width)."""
        if self.training or not self.mirrored:
            return self._seen(pictures)
        views = self._seen(torch.cat([pictures, pictures.flip(3)]))
        return views.view(2, -1, self.width).mean(dim=0)

    def _seen(self, pictures: Tensor) -> Tensor:
        places: Tensor = self.blocks(self.stem(self.contrast(pictures)))
        return places.mean(dim=(2, 3))


class HalvingBlock(nn.Module):
    """Two 3 x 3 convolutions, the first of stride 2, beside an averaging shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.path = nn.Sequential(_convolution(inputs, outputs, stride=2), nn.ReLU(), _convolution(outputs, outputs))
        shortcut = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
        # ceil_mode: an odd side is halved as the strided convolution halves it
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), shortcut, nn.BatchNorm2d(outputs))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, H, W). Returns (B, outputs, ceil(H / 2), ceil(W / 2))."""
        y: Tensor = self.activation(self.path(x) + self.shortcut(x))
        return y


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
