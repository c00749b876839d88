"""How well voices and mouths together tell people apart, where one camera sees all of them.

    python bench/seen_speakers.py /path/to/corpora

First the conversations of bench/speakers.py, whose people sit side by side; the camera takes the wrong mouth for the
moving one as often as bench/speaking_face.py says. `speakers.seat_likeness` is chosen on RAVDESS's actors 1 to 10 and
reported on everybody else. Then GRID's seven talking heads, each beside each other one, both ways round: real mouths
and real voices. A says his sentence, B his, then each says the first and the second half of it again.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from speakers import CASES, DEFAULT, Said, everything, matched, pools, say, turns
from speaking_face import RATE_HZ, beside, pictures, still

from streamer.settings import Speakers
from streamer.signals import SAMPLE_RATE_HZ
from streamer.speakers import Speakers as People
from streamer.speaking_face import Seats, speaking_face
from streamer.utterance import Utterance
from streamer.voices import VoiceReader
from telme.bundle import COMPACT, Bundle
from telme.features.faces import Box, FaceDetector
from telme.features.sightings import Sighting
from telme.features.video import VideoFeatures
from telme.runtime.voiceprint import VoiceEncoder

WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
# Shares of utterances whose speaker's mouth is found, beside a still face and beside a lively one.
FOUND = (0.93, 0.8)
APART = [case for case in CASES if case[0] > 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, help="folder with ravdess/audio, emodb/audio and clips")
    parser.add_argument("--clips", type=int, default=24, help="of each person and, beside them, all calm ones")
    parser.add_argument("--conversations", type=int, default=60, help="of each kind")
    options = parser.parse_args()
    reader = VoiceReader(VoiceEncoder.load())
    first, others = pools(everything(options.corpora, options.clips, reader))

    print("RAVDESS's actors 1 to 10, on whom the weight is chosen: per cent right\n")
    _print({"all": first, "calm": [one for one in first if one.calm]}, WEIGHTS, options.conversations)
    print("\nEverybody else: per cent right\n")
    _print(others, (0.0, DEFAULT.seat_likeness), options.conversations)
    print("\nPairs of GRID's talking heads\n")
    _print_pairs(sorted((options.corpora / "clips").glob("grid_*.mpg")), reader)


def _print(by_name: dict[str, list[Said]], weights: Sequence[float], conversations: int) -> None:
    cases = " | ".join(f"{n} of at most {most}" for n, most in APART)
    print(f"| voices | mouths found | seat_likeness | {cases} | mean |")
    print("|---" * (len(APART) + 4) + "|")
    for (name, pool), found, weight in itertools.product(by_name.items(), FOUND, weights):
        rights = []
        for people, most in APART:
            bounds = DEFAULT.model_copy(update={"people_max": most, "seat_likeness": weight})
            rights.append(
                100 * np.mean([_converse(pool, people, bounds, found, seed) for seed in range(conversations)])
            )
        cells = " | ".join(f"{right:.1f}" for right in rights)
        print(f"| {name} | {found:.0%} | {weight:g} | {cells} | {np.mean(rights):.1f} |", flush=True)


def _converse(pool: Sequence[Said], people: int, bounds: Speakers, found: float, seed: int) -> float:
    """The share of turns that are right."""
    spoken = turns(pool, people, np.random.default_rng(seed))
    sides = sorted({turn.person for turn in spoken})
    random = np.random.default_rng([seed, 1])
    speakers = People(bounds, "person")
    names = []
    for turn in spoken:
        seats = _seats(sides, turn.person, found, random)
        names.append(speakers.name_of(turn.voice, seats))
        speakers.learn(turn.voice, seats)
    return matched([turn.person for turn in spoken], names)


def _seats(people: list[str], speaker: str, found: float, random: np.random.Generator) -> Seats | None:
    if len(people) < 2:
        return None
    boxes = {person: Box(300.0 * n, 0.0, 300.0 * n + 100, 100.0, 1.0) for n, person in enumerate(people)}
    if random.random() > found:
        speaker = str(random.choice([person for person in people if person != speaker]))
    return Seats(boxes.pop(speaker), tuple(boxes.values()))


def _print_pairs(paths: Sequence[Path], reader: VoiceReader) -> None:
    video = VideoFeatures(Bundle.open(COMPACT).manifest.visual, FaceDetector(COMPACT / "face_detector.onnx"))
    heads = {path: pictures(path) for path in paths}
    voices = {path: next(say(path, reader)) for path in paths}
    heard = {path: list(_thrice(one, reader)) for path, one in voices.items()}
    rights: dict[float, list[list[bool]]] = {weight: [] for weight in WEIGHTS}
    for a, b in itertools.permutations(paths, 2):
        seen = {
            speaker: [
                video.see(beside(talks, listens, speaker == a))
                for talks, listens in zip(heads[speaker], still(heads[listener]), strict=False)
            ]
            for speaker, listener in ((a, b), (b, a))
        }
        for weight, results in rights.items():
            speakers = People(DEFAULT.model_copy(update={"seat_likeness": weight}), "person")
            names = []
            for n, path in itertools.product(range(3), (a, b)):
                one = heard[path][n]
                seats = speaking_face(_during(seen[path], one.utterance)).seats
                names.append(speakers.name_of(one.voice, seats))
                speakers.learn(one.voice, seats)
            results.append([name == f"person-{1 + n % 2}" for n, name in enumerate(names)])
    print("| seat_likeness | the second's sentence % | halves of sentences % |\n|---|---|---|")
    for weight, results in rights.items():
        right = 100 * np.array(results)
        print(f"| {weight:g} | {right[:, 1].mean():.1f} | {right[:, 2:].mean():.1f} |")


def _thrice(one: Said, reader: VoiceReader) -> Iterator[Said]:
    """The sentence, its first half and its second half."""
    whole = one.utterance
    middle = (whole.start + whole.end) // 2
    yield one
    for start, end in ((whole.start, middle), (middle, whole.end)):
        samples = whole.samples[start - whole.audio_start : end - whole.audio_start]
        half = replace(whole, start=start, end=end, audio_start=start, samples=samples)
        yield replace(one, utterance=half, voice=reader.read(half))


def _during(seen: Sequence[list[Sighting]], utterance: Utterance) -> list[list[Sighting]]:
    first = utterance.start * RATE_HZ // SAMPLE_RATE_HZ
    last = -(-utterance.end * RATE_HZ // SAMPLE_RATE_HZ)
    return [sightings for sightings in seen[first:last] if sightings]


if __name__ == "__main__":
    main()
