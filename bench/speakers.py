"""How well voices tell people apart: conversations of one to four people, put together from real clips.

    python bench/speakers.py /path/to/corpora > table.md

The live system cuts each clip and encodes the utterance; in a conversation people speak in random turns, each turn
another clip of theirs. The names it gives are matched one to one with the people as well as possible. The threshold is
chosen on RAVDESS's actors 1 to 10 and reported on everybody else. RAVDESS and EmoDB are acted emotions, so a voice
changes from turn to turn more than in most conversations; the rows of calm voices say what becomes of it without that.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from known_speech import CHUNK
from rich.console import Console
from rich.progress import track
from scipy.optimize import linear_sum_assignment
from vad import Sound, read

from streamer.segmenter import Segmenter
from streamer.settings import Segmentation, Speakers, Vad
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk
from streamer.speakers import Speakers as People
from streamer.speakers import Voice
from streamer.utterance import EndReason, Utterance
from streamer.vad import make_detector
from streamer.voices import VoiceReader
from telme.runtime.voiceprint import VoiceEncoder

TURNS = 20
CALM = ("01", "02")  # RAVDESS: neutral, calm
THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
LENGTHS_S = (0.4, 0.6, 0.8, 1.0, 1.3)
# How many people there are, and at most are told apart.
CASES = ((1, 4), (2, 2), (2, 4), (3, 4), (4, 4))
DEFAULT = Speakers(people_max=4)


@dataclass(frozen=True)
class Said:
    """An utterance of one clip: who says it, whether calmly, and how it sounds."""

    person: str
    calm: bool
    utterance: Utterance
    voice: Voice


@dataclass(frozen=True)
class Result:
    """Of one conversation, as shares of its turns.

    right: after the best matching. split: away from a person's most frequent name. merged: under a name that is mostly
    another person's.
    """

    right: float
    split: float
    merged: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, help="folder with ravdess/audio, emodb/audio and clips")
    parser.add_argument("--clips", type=int, default=24, help="of each person and, beside them, all calm ones")
    parser.add_argument("--conversations", type=int, default=100, help="of each kind")
    options = parser.parse_args()
    reader = VoiceReader(VoiceEncoder.load())
    said = everything(options.corpora, options.clips, reader)
    first, others = pools(said)
    second = others["RAVDESS actors 11 to 20"]
    seconds = [one.voice.speech_ms / 1000 for one in said]
    low, high = np.percentile(seconds, (5, 95))
    print(f"{len(said)} utterances, 90 % of them with {low:.1f} to {high:.1f} s of speech.\n")

    print("RAVDESS's actors 1 to 10, on whom the threshold is chosen: per cent right (split / merged)\n")
    rows = {
        f"{least:g}{name}": (pool, DEFAULT.model_copy(update={"likeness_min": least}))
        for name, pool in {"": first, ", calm": [one for one in first if one.calm]}.items()
        for least in THRESHOLDS
    }
    _print("likeness_min", rows, options.conversations)
    print(f"\nlikeness_min {DEFAULT.likeness_min:g}: per cent right (split / merged)\n")
    _print("voices", {name: (pool, DEFAULT) for name, pool in others.items()}, options.conversations)
    grid = [one for one in said if one.person.startswith("GRID")]
    people = People(DEFAULT.model_copy(update={"people_max": 16}), "person")
    for one in grid:
        people.learn(one.voice)
    print(
        f"\n{len(grid)} people of GRID, one sentence each, in one conversation: taken for {people.counters.people}.\n"
    )

    print("Short utterances between whole ones, two people of RAVDESS's actors 11 to 20: per cent of the short right\n")
    _print_short(second, reader, options.conversations)
    print("\nMilliseconds to encode, median of 20\n")
    _print_times(second, reader)


def everything(corpora: Path, clips: int, reader: VoiceReader) -> list[Said]:
    """All calm clips and `clips` others of each person."""
    chosen = list(_chosen(corpora, clips))
    return [one for clip in track(chosen, console=Console(stderr=True)) for one in say(clip, reader)]


def pools(said: Sequence[Said]) -> tuple[list[Said], dict[str, list[Said]]]:
    """Those on whom settings are chosen, and those on whom they are reported."""
    second = [one for one in said if _actor(one) in range(11, 21)]
    german = [one for one in said if one.person.startswith("EmoDB")]
    return [one for one in said if _actor(one) in range(1, 11)], {
        "RAVDESS actors 11 to 20": second,
        "the same, calm": [one for one in second if one.calm],
        "EmoDB": german,
        "the same, neutral": [one for one in german if one.calm],
    }


def _chosen(corpora: Path, clips: int) -> Iterator[Path]:
    by_person: dict[str, list[Path]] = {}
    for clip in (*_clips(corpora, "ravdess/audio", "*.flac"), *_clips(corpora, "emodb/audio", "*.flac")):
        by_person.setdefault(_person(clip), []).append(clip)
    rng = np.random.default_rng(0)
    for theirs in by_person.values():
        any_of_them = {theirs[i] for i in rng.permutation(len(theirs))[:clips]}
        yield from (clip for clip in theirs if clip in any_of_them or _is_calm(clip))
    yield from _clips(corpora, "clips", "grid_*.mpg")


def _clips(corpora: Path, folder: str, pattern: str) -> list[Path]:
    return sorted((corpora / folder).glob(pattern))


def _person(clip: Path) -> str:
    match clip.parent.parent.name:
        case "ravdess":
            return f"RAVDESS {clip.stem[-2:]}"
        case "emodb":
            return f"EmoDB {clip.stem[:2]}"
        case _:
            return f"GRID {clip.stem}"


def _is_calm(clip: Path) -> bool:
    return clip.stem[6:8] in CALM if clip.stem.startswith("03-") else clip.stem[5:6] == "N"


def _actor(one: Said) -> int:
    """RAVDESS's number; 0 for other people."""
    corpus, number = one.person.split()
    return int(number) if corpus == "RAVDESS" else 0


def say(clip: Path, reader: VoiceReader) -> Iterator[Said]:
    """The clip's utterances, as the live system cuts them."""
    sound: Sound = read(clip)
    segmenter = Segmenter(Segmentation(), make_detector(Vad()))
    found = [u for at in range(0, len(sound), CHUNK) for u in segmenter.push(AudioChunk(at, sound[at : at + CHUNK]))]
    found += segmenter.flush(EndReason.STREAM_END)
    for utterance in found:
        yield Said(_person(clip), _is_calm(clip), utterance, reader.read(utterance))


def _print(heading: str, rows: dict[str, tuple[Sequence[Said], Speakers]], conversations: int) -> None:
    cases = [f"{n} of at most {most}" for n, most in CASES]
    print(f"| {heading} | {' | '.join(cases)} | mean |")
    print("|---" * (len(CASES) + 2) + "|")
    for name, (pool, settings) in rows.items():
        cells, rights = [], []
        for people, most in CASES:
            bounds = settings.model_copy(update={"people_max": most})
            results = [_converse(pool, people, bounds, seed) for seed in range(conversations)]
            right, split, merged = (
                100 * np.mean([getattr(result, field) for result in results]) for field in ("right", "split", "merged")
            )
            cells.append(f"{right:.1f} ({split:.1f} / {merged:.1f})")
            rights.append(right)
        print(f"| {name} | {' | '.join(cells)} | {np.mean(rights):.1f} |", flush=True)


def _converse(pool: Sequence[Said], people: int, bounds: Speakers, seed: int) -> Result:
    spoken = turns(pool, people, np.random.default_rng(seed))
    speakers = People(bounds, "person")
    names = []
    for turn in spoken:
        names.append(speakers.name_of(turn.voice))
        speakers.learn(turn.voice)
    counts = _counts([turn.person for turn in spoken], names)
    return Result(
        right=_right(counts),
        split=1 - counts.max(axis=1).sum() / len(spoken),
        merged=1 - counts.max(axis=0).sum() / len(spoken),
    )


def matched(persons: Sequence[str], names: Sequence[str]) -> float:
    """The share of turns with the right name, after the best matching of names and persons."""
    return _right(_counts(persons, names))


def _right(counts: npt.NDArray[np.int_]) -> float:
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def _counts(persons: Sequence[str], names: Sequence[str]) -> npt.NDArray[np.int_]:
    """(persons, names): turns of each person under each name."""
    who, called = (np.unique(values, return_inverse=True) for values in (persons, names))
    counts = np.zeros((len(who[0]), len(called[0])), int)
    np.add.at(counts, (who[1], called[1]), 1)
    return counts


def turns(pool: Sequence[Said], people: int, rng: np.random.Generator) -> list[Said]:
    """So many people in random turns; nobody repeats a clip before all of his were heard."""
    persons = rng.choice(sorted({one.person for one in pool}), people, replace=False)
    theirs = {person: [one for one in pool if one.person == person] for person in persons}
    orders = {person: np.resize(rng.permutation(len(own)), TURNS) for person, own in theirs.items()}
    said = dict.fromkeys(persons, 0)
    spoken = []
    for person in rng.choice(persons, TURNS):
        spoken.append(theirs[person][orders[person][said[person]]])
        said[person] += 1
    return spoken


def _print_short(pool: Sequence[Said], reader: VoiceReader, conversations: int) -> None:
    """Three ways with what is short: like anything else, to the likest known person, or to whoever spoke last."""
    policies: dict[str, Callable[[People, Voice], str]] = {
        "as any other": lambda people, voice: people.name_of(replace(voice, speech_ms=DEFAULT.min_ms)),
        "likest known": lambda people, voice: people.name_of(replace(voice, speech_ms=0)),
        "latest": lambda people, voice: people.name_of(None),
    }
    print(f"| seconds | {' | '.join(policies)} |")
    print("|---" * (len(policies) + 1) + "|")
    for seconds in LENGTHS_S:
        short = {id(one): reader.read(_shortened(one.utterance, seconds)) for one in pool}
        rights = []
        for policy in policies.values():
            judged = [
                _judge_short(turns(pool, 2, np.random.default_rng(seed)), short, policy, seed)
                for seed in range(conversations)
            ]
            rights.append(f"{100 * np.mean(np.concatenate(judged)):.1f}")
        print(f"| {seconds:g} | {' | '.join(rights)} |", flush=True)


def _judge_short(
    spoken: Sequence[Said], short: dict[int, Voice], policy: Callable[[People, Voice], str], seed: int
) -> list[bool]:
    """Whether each short utterance got the name that its person mostly has in the whole ones."""
    is_short = np.random.default_rng(seed).random(len(spoken)) < 0.5
    speakers = People(DEFAULT, "person")
    names: list[str] = []
    for turn, shortly in zip(spoken, is_short, strict=True):
        if shortly:
            names.append(policy(speakers, short[id(turn)]))
        else:
            names.append(speakers.name_of(turn.voice))
            speakers.learn(turn.voice)
    judged = []
    for turn, name, shortly in zip(spoken, names, is_short, strict=True):
        own = [n for n, t, s in zip(names, spoken, is_short, strict=True) if t.person == turn.person and not s]
        if shortly and own:
            judged.append(name == max(sorted(set(own)), key=own.count))
    return judged


def _shortened(utterance: Utterance, seconds: float) -> Utterance:
    """Its middle."""
    n = round(seconds * SAMPLE_RATE_HZ)
    if utterance.end - utterance.start <= n:
        return utterance
    start = (utterance.start + utterance.end - n) // 2
    first = start - utterance.audio_start
    return replace(
        utterance, start=start, end=start + n, audio_start=start, samples=utterance.samples[first : first + n]
    )


def _print_times(pool: Sequence[Said], reader: VoiceReader) -> None:
    speech = np.concatenate([one.utterance.samples for one in pool[:10]])
    print("| seconds of speech | ms |\n|---|---|")
    for seconds in (1, 2, 4, 8, 15):
        n = seconds * SAMPLE_RATE_HZ
        utterance = Utterance(1, 0, n, n, 0, speech[:n], EndReason.SILENCE)
        times = []
        for _ in range(20):
            began = time.perf_counter()
            reader.read(utterance)
            times.append(1000 * (time.perf_counter() - began))
        print(f"| {seconds} | {np.median(times):.0f} |", flush=True)


if __name__ == "__main__":
    main()
