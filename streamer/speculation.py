"""Work that is done in a pause, in case that the pause is the end."""

from dataclasses import dataclass

from streamer.analysis import Analysis
from streamer.utterance import Utterance


@dataclass
class SpeculationCounters:
    """Analyses of pauses since the stream began.

    Each of the `runs` ends in one of the last two; the latest may still be undecided.

    used: the pause was the end, and the analysis became that of the utterance.
    wasted, wasted_ms: more was said, and the work was done in vain.
    """

    runs: int = 0
    used: int = 0
    wasted: int = 0
    wasted_ms: float = 0.0


class Speculation:
    """Keeps the analysis of the latest pause until it is known whether that was the utterance."""

    def __init__(self) -> None:
        self.counters = SpeculationCounters()
        self._kept: tuple[Utterance, Analysis] | None = None

    def keep(self, draft: Utterance, analysis: Analysis) -> None:
        self._waste()
        self.counters.runs += 1
        self._kept = draft, analysis

    def holds(self, utterance: Utterance) -> bool:
        """Whether just the sound of an utterance was analysed."""
        return self._kept is not None and self._kept[0].sounds_like(utterance)

    def take(self, utterance: Utterance) -> Analysis | None:
        """The analysis of an utterance that is over; None where none was made of just its sound."""
        if self._kept is None or not self.holds(utterance):
            self._waste()
            return None
        _, analysis = self._kept
        self._kept = None
        self.counters.used += 1
        return analysis

    def _waste(self) -> None:
        if self._kept is not None:
            self.counters.wasted += 1
            self.counters.wasted_ms += self._kept[1].took_ms
            self._kept = None
