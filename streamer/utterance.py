"""An utterance on its way through the pipeline, and what is heard in it."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from streamer.signals import SAMPLE_RATE_HZ


class EndReason(StrEnum):
    """Why an utterance was declared over."""

    SILENCE = "silence"  # the hangover passed without speech
    LENGTH = "length"  # the maximum length was reached
    GAP = "gap"  # samples stopped coming
    STREAM_END = "stream_end"


@dataclass(frozen=True)
class Utterance:
    """One stretch of one person's speech.

    number: counts the stream's utterances from 1.
    start, end: sample indices on the stream clock where speech begins and ends; `end` is exclusive.
    endpoint: the sample index at which the utterance was declared over.
    audio_start: index of the first sample of `samples`: pre-roll makes it smaller than `start`.
    samples: (n,) float32 in [-1, 1], mono, 16 kHz; post-roll makes them run on after `end`. The sound of
        successive utterances never overlaps.
    """

    number: int
    start: int
    end: int
    endpoint: int
    audio_start: int
    samples: npt.NDArray[np.float32]
    reason: EndReason

    @property
    def start_s(self) -> float:
        return self.start / SAMPLE_RATE_HZ

    @property
    def end_s(self) -> float:
        return self.end / SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Transcript:
    """What was said.

    confidence: exp of the mean token log-probability, in (0, 1].
    language: ISO 639-1 code.
    """

    text: str
    confidence: float
    language: str


@dataclass(frozen=True)
class Rejected:
    """A transcript that was not believed; `reason` names the gate with its value and bound."""

    reason: str
