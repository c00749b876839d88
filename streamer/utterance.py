"""An utterance on its way through the pipeline, and what is heard in it."""

from dataclasses import dataclass, field
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


class Unfinished(StrEnum):
    """Why an utterance is reported before it is over."""

    PAUSE = "pause"  # a short silence: perhaps this was all
    SPEAKING = "speaking"  # somebody speaks on and on


@dataclass(frozen=True)
class Utterance:
    """One stretch of one person's speech, or, as a draft, the part of it that was heard so far.

    number: counts the stream's utterances from 1; drafts have the number of the utterance that they become.
    start, end: sample indices on the stream clock where speech begins and ends; `end` is exclusive.
    endpoint: the sample index at which the utterance was declared over; of a draft, at which it was reported.
    audio_start: index of the first sample of `samples`: pre-roll makes it smaller than `start`.
    samples: (n,) float32 in [-1, 1], mono, 16 kHz; post-roll makes them run on after `end`. The sound of
        successive utterances never overlaps.
    """

    number: int
    start: int
    end: int
    endpoint: int
    audio_start: int
    samples: npt.NDArray[np.float32] = field(repr=False)  # logs must never quote sound
    reason: EndReason | Unfinished

    @property
    def over(self) -> bool:
        """Whether this is the whole utterance, and no draft."""
        return isinstance(self.reason, EndReason)

    def sounds_like(self, other: "Utterance") -> bool:
        """Whether both are the same sound: then whatever is recognised in one is true of the other."""
        return self._extent == other._extent

    @property
    def _extent(self) -> tuple[int, int, int, int]:
        return self.audio_start, self.start, self.end, len(self.samples)

    @property
    def start_s(self) -> float:
        return self.start / SAMPLE_RATE_HZ

    @property
    def end_s(self) -> float:
        return self.end / SAMPLE_RATE_HZ

    @property
    def silence_ms(self) -> float:
        """Silence that was heard after its speech when it was reported or declared over."""
        return 1000 * (self.endpoint - self.end) / SAMPLE_RATE_HZ


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
