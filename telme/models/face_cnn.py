"""A small residual network for face crops (after He et al., CVPR 2016, arXiv 1512.03385)."""

from collections.abc import Sequence

from torch import Tensor, nn

FLAT = 1e-3  # variance at which a picture counts as flat, so that its noise is not blown up


class FaceCNN(nn.Module):
    """Equal contrast, a convolution at full size, residual blocks at ever smaller sizes, and the mean over places.

    Every picture is brought to zero mean and unit deviation first: a dim room must not look like another emotion.
    """

    def __init__(self, channels: int, stem: int, widths: Sequence[int], depths: Sequence[int] | None = None) -> None:
        """stem: width of the first convolution.

        widths: of the blocks at half the size, a quarter, and so on; the last is the output's size.
        depths: how many blocks there are at each of these sizes; None for one each.
        Raises ValueError where there are not as many depths as widths.
        """
        super().__init__()
        depths = depths or [1] * len(widths)
        if len(depths) != len(widths):
            raise ValueError(f"{len(depths)} depths for {len(widths)} widths")
        self.contrast = nn.GroupNorm(1, channels, eps=FLAT, affine=False)
        self.stem = nn.Sequential(_convolution(channels, stem), nn.ReLU())
        blocks: list[nn.Module] = []
        for inputs, outputs, depth in zip((stem, *widths[:-1]), widths, depths, strict=True):
            blocks.append(ResidualBlock(inputs, outputs, stride=2))
            blocks.extend(ResidualBlock(outputs, outputs) for _ in range(depth - 1))
        self.blocks = nn.Sequential(*blocks)
        self.width = widths[-1]

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures: (B, channels, H, W). Returns (B, width)."""
        seen: Tensor = self.blocks(self.stem(self.contrast(pictures)))
        return seen.mean(dim=(2, 3))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, the first of the given stride, beside a shortcut that averages where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.path = nn.Sequential(_convolution(inputs, outputs, stride), nn.ReLU(), _convolution(outputs, outputs))
        self.shortcut = nn.Identity() if (inputs, stride) == (outputs, 1) else _averaging(inputs, outputs, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, H, W). Returns (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.activation(self.path(x) + self.shortcut(x))
        return y


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def _averaging(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
    # ceil_mode: an odd side is halved as the strided convolution halves it
    return nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), convolution, nn.BatchNorm2d(outputs))
