"""Random variation of face crops: as a live detector, camera and room would vary them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from telme.training.config import FaceAugmentation


def augment(faces: Tensor, settings: FaceAugmentation, generator: torch.Generator) -> Tensor:
    """faces: (B, 1, S, S) float in [0, 1]. Returns a new tensor of the same shape and range."""
    faces = _place(faces, settings, generator)
    faces = _coarsen(faces, settings.coarse_share, generator)
    faces = _expose(faces, settings.exposure, generator)
    return _erase(faces, settings.erased_share, generator)


def _uniform(shape: tuple[int, ...], reach: float, generator: torch.Generator) -> Tensor:
    """Uniform in [-reach, reach]."""
    return (2 * torch.rand(shape, generator=generator) - 1) * reach


def _chosen(faces: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """True for about `share` of the faces: (B, 1, 1, 1)."""
    return (torch.rand(len(faces), generator=generator) < share)[:, None, None, None]


def _place(faces: Tensor, settings: FaceAugmentation, generator: torch.Generator) -> Tensor:
    """Mirror, rotate, scale and shift."""
    b = len(faces)
    mirror = torch.where(torch.rand(b, generator=generator) < 0.5, -1.0, 1.0)
    angle = _uniform((b,), math.radians(settings.rotation_deg), generator)
    scale = 1 + _uniform((b,), settings.scale, generator)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    shift = _uniform((b, 2), 2 * settings.shift, generator)  # a picture is 2 long in these coordinates
    rows = [torch.stack([mirror * cosine, -sine, shift[:, 0]], 1), torch.stack([mirror * sine, cosine, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(faces.shape), align_corners=False)
    return F.grid_sample(faces, grid, padding_mode="border", align_corners=False)


def _coarsen(faces: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Halve the resolution of some, as of a face far from the camera."""
    coarse = F.interpolate(F.avg_pool2d(faces, 2), size=faces.shape[2:], mode="bilinear")
    return torch.where(_chosen(faces, share, generator), coarse, faces)


def _expose(faces: Tensor, reach: float, generator: torch.Generator) -> Tensor:
    """Change contrast about the mean, and brightness."""
    shape = (len(faces), 1, 1, 1)
    mean = faces.mean(dim=(1, 2, 3), keepdim=True)
    contrast = 1 + _uniform(shape, reach, generator)
    return ((faces - mean) * contrast + mean + _uniform(shape, reach / 2, generator)).clamp(0, 1)


def _erase(faces: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Cover a rectangle of some with grey, as a hand would (Zhong et al., AAAI 2020, arXiv 1708.04896)."""
    size = faces.shape[-1]
    sides = torch.randint(size // 6, size // 2, (len(faces), 2), generator=generator)
    start = (torch.rand((len(faces), 2), generator=generator) * (size - sides)).long()
    place = torch.arange(size)
    inside = (place >= start[:, :, None]) & (place < (start + sides)[:, :, None])  # (B, 2, S)
    hidden = inside[:, 0, :, None] & inside[:, 1, None, :]
    return faces.masked_fill(hidden[:, None] & _chosen(faces, share, generator), 0.5)
