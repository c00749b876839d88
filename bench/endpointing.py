"""Is a hangover that adapts better than a fixed one? False cut-offs against delay, on real speech.

    python bench/endpointing.py /path/to/corpora [--plot docs/endpointing.png] > table.md

Each clip is one utterance: whoever declares it over in a silence inside it, cuts it off. What is heard at the beginning
of a silence (how far the voice fell before it, how long somebody spoke) chooses between a short and a long hangover.
The two hangovers and the bound between them are chosen on four fifths of the speakers, for the fewest cut-offs at no
more delay than a fixed hangover's, and judged on the others. Every figure comes from the same seed.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from vad import at_level, read, speech_spans

from streamer.settings import Vad
from streamer.signals import SAMPLE_RATE_HZ
from streamer.vad import VoiceDetector, make_detector

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SEED = 7
RAVDESS_CLIPS = 300
FOLDS = 5
HANGOVERS_MS = np.arange(200, 801, 50)
CANDIDATES_MS = np.arange(150, 1001, 50)
QUANTILES = np.linspace(0.05, 0.95, 19)
FALL_FRAMES = 4  # of the detector: 128 ms
SHORTEST_MS = 90
CUES = ("fall", "length")


@dataclass(frozen=True)
class Silence:
    """A silence after speech.

    ms: how long it lasts; infinite after the utterance's last word.
    fall: dB that the last 128 ms of speech are below the loud parts (the 90th percentile) of the speech so far.
    length: seconds since the utterance began.
    """

    ms: float
    fall: float
    length: float


@dataclass(frozen=True)
class Clips:
    """speakers: of each clip; silences: each one's, those inside and last the one after it."""

    speakers: list[str]
    silences: list[list[Silence]]

    def choose(self, mask: Bools) -> "Clips":
        chosen = np.flatnonzero(mask)
        return Clips([self.speakers[i] for i in chosen], [self.silences[i] for i in chosen])

    @cached_property
    def owner(self) -> npt.NDArray[np.intp]:
        """For each silence inside a clip, which clip that is."""
        return np.repeat(np.arange(len(self.silences)), [len(each) - 1 for each in self.silences])

    @cached_property
    def inside(self) -> dict[str, Floats]:
        """Duration and cues of the silences inside clips."""
        return _columns([silence for each in self.silences for silence in each[:-1]])

    @cached_property
    def after(self) -> dict[str, Floats]:
        """Cues of the silences after clips."""
        return _columns([each[-1] for each in self.silences])


@dataclass(frozen=True)
class Rule:
    """The hangover where a cue is at least a bound, and where it is less."""

    cue: str
    bound: float
    high_ms: float
    low_ms: float

    def hangover_ms(self, silences: dict[str, Floats]) -> Floats:
        return np.where(silences[self.cue] >= self.bound, self.high_ms, self.low_ms)


@dataclass(frozen=True)
class Judged:
    """What a rule does to some clips: whether each is cut off, and how long after its end it is over."""

    cut: Bools
    delay_ms: Floats

    @classmethod
    def of(cls, rule: Rule, clips: Clips) -> "Judged":
        cut = np.zeros(len(clips.speakers), bool)
        cut[clips.owner[clips.inside["ms"] >= rule.hangover_ms(clips.inside)]] = True
        return cls(cut, rule.hangover_ms(clips.after))


def sentences(corpora: Path, rng: np.random.Generator) -> list[tuple[str, Path]]:
    """Speakers and clips, each of one sentence."""
    grid = [(clip.stem, clip) for clip in sorted((corpora / "clips").glob("grid_*.mpg"))]
    ravdess = [(clip.stem[-2:], clip) for clip in sorted((corpora / "ravdess" / "audio").glob("*.flac"))]
    emodb = [(f"emodb {clip.stem[:2]}", clip) for clip in sorted((corpora / "emodb" / "audio").glob("*.flac"))]
    some = [ravdess[i] for i in rng.choice(len(ravdess), RAVDESS_CLIPS, replace=False)]
    return [(grid + some + emodb)[i] for i in rng.permutation(len(grid + some + emodb))]


def listen(clip: Path, detector: VoiceDetector, rng: np.random.Generator) -> list[Silence]:
    """Runs the detector, in whose stream the clips follow each other, over a clip and the pause after it.

    Returns the silences inside and the one after it, or nothing where no speech was found.
    """
    sound = read(clip)
    spans = speech_spans(sound)
    pause = np.zeros(int(rng.uniform(1.2, 3.0) * SAMPLE_RATE_HZ), np.float32)
    stream = np.concatenate([at_level(sound, spans), pause])
    size = detector.frame_samples
    frames = stream[: len(stream) // size * size].reshape(-1, size)
    voiced = np.flatnonzero([detector.is_speech(frame) for frame in frames])
    # A clip's own rustle after the last word is not speech, though the detector may take it for some.
    voiced = voiced[voiced * size < spans[-1].end + 0.3 * SAMPLE_RATE_HZ]
    if not len(voiced):
        return []
    level = 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-12)
    return [
        Silence(ms, fall=_fall(level, voiced[voiced <= last]), length=float(last - voiced[0]) * size / SAMPLE_RATE_HZ)
        for last, ms in zip(voiced, [*(np.diff(voiced) - 1) * size * 1000 / SAMPLE_RATE_HZ, np.inf], strict=True)
        if ms >= SHORTEST_MS
    ]


def _columns(silences: list[Silence]) -> dict[str, Floats]:
    return {name: np.array([getattr(silence, name) for silence in silences]) for name in ("ms", *CUES)}


def _fall(level: Floats, voiced: npt.NDArray[np.intp]) -> float:
    return float(np.percentile(level[voiced], 90) - level[voiced[-FALL_FRAMES:]].mean())


def rules(cue: str, clips: Clips) -> Iterator[Rule]:
    for bound, high, low in product(np.quantile(clips.after[cue], QUANTILES), CANDIDATES_MS, CANDIDATES_MS):
        yield Rule(cue, float(bound), float(high), float(low))


def fixed(hangover_ms: float) -> Rule:
    return Rule("length", 0.0, hangover_ms, hangover_ms)


def adapted(cue: str, clips: Clips) -> dict[int, Judged]:
    """For each fixed hangover the best rule of no more delay; each clip is judged by the rule of other speakers."""
    n = len(clips.speakers)
    fold_of = {speaker: i % FOLDS for i, speaker in enumerate(sorted(set(clips.speakers)))}
    judged = {int(h): Judged(np.zeros(n, bool), np.zeros(n)) for h in HANGOVERS_MS}
    for fold in range(FOLDS):
        inside = np.array([fold_of[speaker] == fold for speaker in clips.speakers])
        others, theirs = clips.choose(~inside), clips.choose(inside)
        tried = [(rule, Judged.of(rule, others)) for rule in rules(cue, others)]
        scored = [(rule, one.cut.sum(), one.delay_ms.mean()) for rule, one in tried]
        for hangover_ms, both in judged.items():
            affordable = [entry for entry in scored if entry[2] <= hangover_ms]
            best, *_ = min(affordable, key=lambda entry: (entry[1], entry[2]))
            result = Judged.of(best, theirs)
            both.cut[inside], both.delay_ms[inside] = result.cut, result.delay_ms
    return judged


def interval(fewer: npt.NDArray[np.int_], rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over clips, in per cent."""
    means = [rng.choice(fewer, len(fewer)).mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * float(low), 100 * float(high)


def table(curves: dict[str, dict[int, Judged]], rng: np.random.Generator) -> Iterator[str]:
    titles = ["hangover ms", "fixed: cut off %"]
    for cue in CUES:
        titles += [f"by {cue}: cut off %", "minus fixed (95 %)", "delay mean / p95 ms"]
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for hangover_ms in map(int, HANGOVERS_MS):
        same = curves["fixed"][hangover_ms]
        cells = [str(hangover_ms), f"{100 * same.cut.mean():.1f}"]
        for cue in CUES:
            one = curves[cue][hangover_ms]
            low, high = interval(one.cut.astype(int) - same.cut.astype(int), rng)
            delay = f"{one.delay_ms.mean():.0f} / {np.percentile(one.delay_ms, 95):.0f}"
            cells += [f"{100 * one.cut.mean():.1f}", f"{low:+.1f} to {high:+.1f}", delay]
        yield f"| {' | '.join(cells)} |"


def plot(curves: dict[str, dict[int, Judged]], file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    names = {"fixed": "fixed", **{cue: f"adapts by {cue}" for cue in CUES}}
    for name, judged in curves.items():
        delays = [one.delay_ms.mean() for one in judged.values()]
        axes.plot(delays, [100 * one.cut.mean() for one in judged.values()], marker="o", label=names[name])
    axes.set(xlabel="mean delay after the last word, ms", ylabel="utterances cut off, %", ylim=(0, None))
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, help="folder with ravdess/audio, emodb/audio and clips")
    parser.add_argument("--plot", type=Path, help="PNG to draw the curves into")
    options = parser.parse_args()

    rng = np.random.default_rng(SEED)
    detector = make_detector(Vad())
    heard = [(speaker, listen(path, detector, rng)) for speaker, path in sentences(options.corpora, rng)]
    speakers, silences = zip(*((speaker, found) for speaker, found in heard if found), strict=True)
    clips = Clips(list(speakers), list(silences))
    curves = {"fixed": {int(h): Judged.of(fixed(float(h)), clips) for h in HANGOVERS_MS}}
    curves |= {cue: adapted(cue, clips) for cue in CUES}

    inside = int((clips.inside["ms"] >= HANGOVERS_MS[0]).sum())
    print(f"{len(speakers)} sentences of {len(set(speakers))} speakers; ", end="")
    print(f"{inside} silences of {HANGOVERS_MS[0]} ms or more inside them\n")
    print(*table(curves, rng), sep="\n")
    if options.plot:
        plot(curves, options.plot)


if __name__ == "__main__":
    main()
