"""What sources emit: stamped audio and video on one stream clock."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

SAMPLE_RATE_HZ = 16_000


class SourceError(Exception):
    """A source that cannot be used; the message says which, why, and what to run or change."""


@dataclass(frozen=True)
class AudioChunk:
    """Consecutive samples of the stream.

    start: index of the first sample on the stream clock, at 16 kHz. A start beyond the end of the
        chunk before it says that the samples between were lost.
    samples: (n,) float32 in [-1, 1], mono, 16 kHz.
    """

    start: int
    samples: npt.NDArray[np.float32] = field(repr=False)  # logs must never quote sound or pictures

    @property
    def end(self) -> int:
        return self.start + len(self.samples)


@dataclass(frozen=True)
class VideoFrame:
    """One picture.

    time_s: on the stream clock, in seconds since the stream's start.
    image: (H, W, 3) uint8, RGB.
    """

    time_s: float
    image: npt.NDArray[np.uint8] = field(repr=False)


@dataclass
class SourceCounters:
    """What a source lost or had to repair since it started."""

    reopened: int = 0
    stalls: int = 0
    overruns: int = 0
    lost_samples: int = 0
    dropped_frames: int = 0


class Source(Protocol):
    """Something that watches or listens.

    `live` sources run on whether or not anyone keeps up; the others wait for the reader, so that
    nothing of a file is lost. `async with` opens the device and its threads and closes them again.
    Opening raises SourceError. An unavailable device later is repaired and counted, never raised.
    A method that does not apply (a microphone's frames) yields nothing and returns at once. Each of
    the two is read once. Both are read at the same time where both are wanted: of a source that is
    not live, frames come in step with the sound, each before the first chunk that ends after it.
    """

    @property
    def live(self) -> bool:
        """Known once the source is open."""
        ...

    @property
    def patience_s(self) -> float:
        """Seconds for which the sound of a live source may stay away, and then all of it come: a network's jitter."""
        ...

    @property
    def counters(self) -> SourceCounters: ...

    async def __aenter__(self) -> "Source": ...

    async def __aexit__(self, *exc: object) -> None: ...

    def audio(self) -> AsyncIterator[AudioChunk]:
        """Chunks in order, at most 100 ms each; ends with the stream."""
        ...

    def frames(self) -> AsyncIterator[VideoFrame]:
        """Frames in order, about `rate_hz` of them a second; ends with the stream."""
        ...
