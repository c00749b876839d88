"""Real faces for the tests: the demo's talking heads, and the detector that finds them."""

import os
from functools import cache
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from telme.bundle import COMPACT, Bundle, VisualSpec
from telme.features.faces import FaceDetector
from telme.models.sources import SourceError, locate
from telme.training.face_detector import SOURCE

CONVERSATION = Path(__file__).parents[1] / "demo" / "conversation.mp4"
FACE_CROPS = VisualSpec(kind="face_crops", size_px=48, channels=1, frames=8, margin=0.0, mean=(0.5,), std=(0.25,))
FRAMES = VisualSpec(kind="frames", size_px=32, channels=3, frames=4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))

Picture = npt.NDArray[np.uint8]


@cache
def detector() -> FaceDetector:
    """The one that ships with the compact model."""
    bundle = Bundle.open(COMPACT)
    part = bundle.manifest.parts.face_detector
    assert part is not None
    return FaceDetector(bundle.path(part))


@cache
def published_detector() -> Path:
    """CenterFace as published. Without the package that carries it a test is left out, but never in CI."""
    try:
        return Path(locate(SOURCE))
    except SourceError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@cache
def talking_heads() -> tuple[Picture, ...]:
    """A picture of the demo's conversation every second."""
    with av.open(str(CONVERSATION)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return tuple(pictures[::25])
