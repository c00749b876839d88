"""The bundle that ships, and utterances for it: real speech, real faces and made-up dialogue."""

from itertools import product
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from telme.features.text import Turn
from telme.runtime.encoders import Frame
from telme.runtime.recognizer import Inputs, Recognizer

CONVERSATION = Path(__file__).parents[1] / "demo" / "conversation.mp4"

BAD_NEWS = (Turn("a", "How was your day?"), Turn("b", "My grandmother died this morning. I can't stop crying."))
GOOD_NEWS = (Turn("a", "So? Did you get the job?"), Turn("b", "Yes! I got it! I am so happy, this is wonderful!"))


@pytest.fixture(scope="session")
def recognizer() -> Recognizer:
    return Recognizer.load()


@pytest.fixture(scope="session")
def speech() -> npt.NDArray[np.float32]:
    """Six seconds of two people talking, 16 kHz."""
    with av.open(str(CONVERSATION)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
        chunks = [chunk.to_ndarray()[0] for frame in container.decode(audio=0) for chunk in resampler.resample(frame)]
    return np.concatenate(chunks)[: 6 * 16_000]


@pytest.fixture(scope="session")
def frames(recognizer: Recognizer) -> list[Frame]:
    """Faces from the picture of the same file."""
    with av.open(str(CONVERSATION)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::10]
    prepared = [face for picture in pictures[:12] if (face := recognizer.prepare_frame(picture)) is not None]
    assert prepared
    return prepared


@pytest.fixture(scope="session")
def every_combination(speech: npt.NDArray[np.float32], frames: list[Frame]) -> list[Inputs]:
    """All seven ways in which modalities can be there, with lengths that differ."""
    found = []
    for number, (text, audio, visual) in enumerate(product([True, False], repeat=3)):
        if text or audio or visual:
            turns = (GOOD_NEWS, BAD_NEWS)[number % 2]
            found.append(
                Inputs(
                    turns[-1 - number % 2 :] if text else None,
                    speech[: 9_000 * (number + 1)] if audio else None,
                    frames[: number + 1] if visual else None,
                )
            )
    return found
