"""What one temperature for all voices does to people whom neither it nor the model has heard.

    python bench/voice_calibration.py --corpora /path/to/corpora

Asks a bundle's audio part about the dev and test speakers of the corpora that it learnt from. The temperature is fitted
on all of dev, as training does, and on each dev speaker alone; intervals resample the test speakers, or the clips.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from telme.bundle import COMPACT, Bundle
from telme.corpora import waveforms
from telme.corpora.records import Split
from telme.evaluation import expected_calibration_error, fit_temperature, negative_log_likelihood, softmax
from telme.training import exported
from telme.training.encodings import AudioPart
from telme.training.speech import CORPORA, labelled, select

RESAMPLES = 1000


@dataclass(frozen=True)
class Heard:
    """Clips of one corpus and split. logits: (N, C). truth: (N,). speakers: (N,), names."""

    logits: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int64]
    speakers: npt.NDArray[np.str_]

    @classmethod
    def all_of(cls, several: "list[Heard]") -> Self:
        return cls(*(np.concatenate([getattr(one, name) for one in several]) for name in cls.__dataclass_fields__))

    def where(self, places: npt.NDArray[np.generic]) -> "Heard":
        return Heard(self.logits[places], self.truth[places], self.speakers[places])

    def likelihood(self, temperature: float = 1.0) -> float:
        """Mean of -log p(label), in nats."""
        return negative_log_likelihood(self.logits, self.truth, temperature)

    def error(self, temperature: float = 1.0) -> float:
        """Expected calibration error."""
        return expected_calibration_error(softmax(self.logits, temperature), self.truth)

    def temperature(self) -> float:
        return fit_temperature(self.logits, self.truth)


def hear(part: AudioPart, corpora: Path, corpus: str, split: Split) -> Heard:
    spec = part.spec
    found = CORPORA[corpus](corpora / corpus).split(split)
    clips = labelled(select(waveforms.load(corpus, found, spec.min_s, spec.source_rate_hz), split), part.about.labels)
    encodings = part.encode(clips)
    return Heard(part.logits(encodings.vectors).numpy(), encodings.truth, np.array(encodings.groups))


def interval(heard: Heard, difference: Callable[[Heard], float], by_speaker: bool) -> str:
    """95 %, over speakers or over clips."""
    random = np.random.default_rng(0)
    names = np.unique(heard.speakers)
    values = []
    for _ in range(RESAMPLES):
        if by_speaker:
            drawn = [np.flatnonzero(heard.speakers == name) for name in random.choice(names, len(names))]
            places = np.concatenate(drawn)
        else:
            places = random.integers(len(heard.truth), size=len(heard.truth))
        values.append(difference(heard.where(places)))
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{low:+.3f} to {high:+.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=COMPACT, metavar="DIR")
    parser.add_argument("--corpora", type=Path, default=Path("corpora"), metavar="DIR")
    options = parser.parse_args()
    part = exported.parts(Bundle.open(options.bundle))[0]["audio"]
    assert isinstance(part, AudioPart)
    names = [name.lower() for name in part.about.corpora]
    dev = Heard.all_of([hear(part, options.corpora, name, "dev") for name in names])
    fitted = dev.temperature()
    print(f"fitted on dev, {len(dev.truth)} clips: {fitted:.2f}")
    for speaker in np.unique(dev.speakers):
        own = dev.where(dev.speakers == speaker)
        others = dev.where(dev.speakers != speaker).temperature()
        gain = own.likelihood() - own.likelihood(others)
        print(f"  {speaker}: {own.temperature():.2f} alone; that of the others, {others:.2f}, gains {gain:+.3f} nats")
    print("| test | clips, speakers | nll | as fitted | ECE | as fitted | difference, by speakers | by clips |")
    print("|---|---|---|---|---|---|---|---|")
    tested = {name: hear(part, options.corpora, name, "test") for name in names}
    for name, test in {**tested, "all": Heard.all_of(list(tested.values()))}.items():
        sizes = f"{len(test.truth)}, {len(np.unique(test.speakers))}"
        nll, ece = (f"{of():.3f} | {of(fitted):.3f}" for of in (test.likelihood, test.error))
        spans = [interval(test, lambda one: one.error(fitted) - one.error(), by) for by in (True, False)]
        print(f"| {name} | {sizes} | {nll} | {ece} | {' | '.join(spans)} |", flush=True)


if __name__ == "__main__":
    main()
