"""What a benchmark recognises: a real clip's speech and pictures, and prompts of given lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import av
import numpy as np
import numpy.typing as npt

from export.errors import ExportError
from telme.features.text import Prompter, Turn
from telme.runtime.encoders import Frame
from telme.runtime.model import Float32

SAMPLE_RATE_HZ = 16_000

_SAID = (
    "I told you that it would not work, and you did not listen to me.",
    "But you promised! What am I supposed to say to them now?",
    "Oh, that is wonderful, I am so happy for you both.",
    "Wait, did you hear that? Somebody is at the door.",
)


@dataclass(frozen=True)
class Material:
    """speech: (n,) float32, 16 kHz, in [-1, 1]. pictures: (height, width, 3) uint8, evenly spaced over the clip."""

    clip: Path
    speech: Float32
    pictures: Sequence[Frame]

    @classmethod
    def read(cls, clip: Path, pictures: int) -> Self:
        """Raises ExportError when the clip cannot be read, or has no sound or no picture."""
        try:
            speech, frames = decode(clip)
        except (OSError, av.FFmpegError) as error:
            raise ExportError(f"Cannot read {clip} ({error}); give --media a clip with sound and picture.") from error
        if not len(speech) or not frames:
            raise ExportError(f"{clip} lacks sound or picture; give --media a clip that has both.")
        places = np.linspace(0, len(frames) - 1, pictures).round().astype(int)
        return cls(clip, speech, [frames[place] for place in places])

    def sound(self, seconds: float) -> Float32:
        """The clip's first `seconds`, repeated where it is shorter."""
        return np.resize(self.speech, round(seconds * SAMPLE_RATE_HZ))


def decode(clip: Path) -> tuple[Float32, list[npt.NDArray[np.uint8]]]:
    """All the sound (n,), 16 kHz mono, and all the pictures of a media file; what it lacks is empty."""
    samples: list[Float32] = []
    pictures: list[npt.NDArray[np.uint8]] = []
    with av.open(str(clip)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
        for frame in container.decode([*container.streams.audio[:1], *container.streams.video[:1]]):
            if isinstance(frame, av.AudioFrame):
                samples += [chunk.to_ndarray()[0] for chunk in resampler.resample(frame)]
            elif isinstance(frame, av.VideoFrame):
                pictures.append(frame.to_ndarray(format="rgb24"))
    return np.concatenate(samples) if samples else np.zeros(0, np.float32), pictures


def dialogue(tokens: int, prompter: Prompter) -> list[Turn]:
    """A dialogue whose prompt has `tokens` tokens, or a few less where the next word would be too long.

    It grows to the front, word by word; a prompt that grows no longer has dropped its first turn.
    """
    turns: list[Turn] = []
    place = length = 0
    while True:
        words = _SAID[place % len(_SAID)].split()
        later = turns
        for first in reversed(range(len(words))):
            longer = [Turn("ab"[place % 2], " ".join(words[first:])), *later]
            grown = len(prompter.encode(longer))
            if turns and not length < grown <= tokens:
                return turns
            turns, length = longer, grown
        place += 1
