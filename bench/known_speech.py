"""Real speech whose words are known, as the live system cuts it: clean, in noise, and noise alone."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from vad import SPEECH_DBFS, Condition, Sound, at_level, make_noise, read, speech_spans

from streamer.segmenter import Segmenter
from streamer.settings import Segmentation, Vad
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk
from streamer.utterance import EndReason
from streamer.vad import make_detector

DEMO = Path(__file__).parents[1] / "demo"
sys.path.append(str(DEMO))

from build import SENTENCES, grid_sentence  # noqa: E402

CONDITIONS = (
    Condition("clean"),
    *(Condition(f"{noise}, {snr_db} dB", noise, snr_db) for snr_db in (10, 0) for noise in ("pink", "babble")),
)
JFK = "And so, my fellow Americans, ask not what your country can do for you, ask what you can do for your country."
# Burkhardt et al., "A database of German emotional speech", Interspeech 2005.
EMODB = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute Abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
FIGURES = {
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "de": ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"],
}
CHUNK = SAMPLE_RATE_HZ // 50
ROOM = round(0.7 * SAMPLE_RATE_HZ)  # before anybody speaks in RAVDESS's clips


@dataclass(frozen=True)
class Spoken:
    """An utterance with what is said in it, in a language (ISO 639-1); an empty text where nothing is."""

    name: str
    text: str
    language: str
    sound: Sound


def plain(text: str, language: str) -> str:
    """Lower case, no punctuation, figures as words: `P9` is "p nine"."""
    spelled = re.sub(r"[0-9]", lambda figure: f" {FIGURES[language][int(figure[0])]} ", text.lower())
    return " ".join(re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", spelled))


def english(corpora: Path, takes: int, rng: np.random.Generator) -> list[Spoken]:
    """RAVDESS's actors 1 to 14, the public speech, GRID one by one and two or three in a row, and the demo's clips."""
    acted = [clip for clip in sorted((corpora / "ravdess" / "audio").glob("*.flac")) if int(clip.stem[-2:]) <= 14]
    acted = [acted[i] for i in rng.choice(len(acted), min(takes, len(acted)), replace=False)]
    read_aloud = sorted((corpora / "clips").glob("grid_*.mpg"))
    said = [(clip, SENTENCES[int(clip.stem.split("-")[4])]) for clip in acted]
    said += [(clip, grid_sentence(clip.stem.removeprefix("grid_"))) for clip in read_aloud]
    said += [(corpora / "clips" / "jfk.flac", JFK)]
    spoken = [Spoken(clip.stem, text, "en", as_cut(read(clip))) for clip, text in said]
    grid = spoken[len(acted) : len(acted) + len(read_aloud)]
    spoken += [joined(grid[at : at + n]) for n in (2, 3) for at in range(0, len(grid) - n + 1, n)]
    return [*spoken, *demo()]


def german(corpora: Path, takes: int, rng: np.random.Generator) -> list[Spoken]:
    """EmoDB's speakers but those who babble."""
    clips = [clip for clip in sorted((corpora / "emodb" / "audio").glob("*.flac")) if clip.stem[:2] not in ("15", "16")]
    chosen = [clips[i] for i in rng.choice(len(clips), min(takes, len(clips)), replace=False)]
    return [Spoken(clip.stem, EMODB[clip.stem[2:5]], "de", as_cut(read(clip))) for clip in chosen]


def demo() -> Iterator[Spoken]:
    """What is said in the demo's clips."""
    before, after = (
        round(s * SAMPLE_RATE_HZ) for s in (Segmentation().pre_roll_ms / 1e3, Segmentation().post_roll_ms / 1e3)
    )
    for file, items in json.loads((DEMO / "expected.json").read_text()).items():
        sound = read(DEMO / file)
        for item in items:
            start, end = (round(item[key] * SAMPLE_RATE_HZ) for key in ("start_s", "end_s"))
            yield Spoken(f"{file} {item['start_s']}", item["text"], "en", sound[start - before : end + after])


def joined(spoken: list[Spoken]) -> Spoken:
    """Several utterances as one."""
    text = " ".join(one.text for one in spoken)
    return Spoken("+".join(one.name for one in spoken), text, "en", np.concatenate([one.sound for one in spoken]))


def as_cut(clip: Sound) -> Sound:
    """From the first to the last utterance that the live system finds in a clip; all of it if it finds none."""
    segmenter = Segmenter(Segmentation(max_ms=30_000), make_detector(Vad()))
    found = [u for at in range(0, len(clip), CHUNK) for u in segmenter.push(AudioChunk(at, clip[at : at + CHUNK]))]
    found += segmenter.flush(EndReason.STREAM_END)
    if not found:
        return clip
    return clip[found[0].audio_start : found[-1].audio_start + len(found[-1].samples)]


def babblers(corpora: Path, rng: np.random.Generator) -> list[Path]:
    """Clips of speakers who are in none of the utterances."""
    clips = [clip for clip in sorted((corpora / "ravdess" / "audio").glob("*.flac")) if int(clip.stem[-2:]) > 14]
    clips += [clip for clip in sorted((corpora / "emodb" / "audio").glob("*.flac")) if clip.stem[:2] in ("15", "16")]
    return [clips[i] for i in rng.choice(len(clips), 48, replace=False)]


def long_noises(corpora: Path, rng: np.random.Generator) -> dict[str, Sound]:
    """A minute of each noise, of unit power."""
    babble = babblers(corpora, rng)
    return {name: make_noise(name, 60 * SAMPLE_RATE_HZ, babble, rng) for name in ("white", "pink", "babble")}


def in_condition(spoken: Spoken, condition: Condition, noises: dict[str, Sound], rng: np.random.Generator) -> Spoken:
    """The utterance with its speech at the usual level, and a random stretch of noise."""
    spans = speech_spans(spoken.sound)
    sound = at_level(spoken.sound, spans) if spans else spoken.sound
    if condition.noise is not None:
        sound = sound + excerpt(noises[condition.noise], len(sound), SPEECH_DBFS - condition.snr_db, rng)
    return replace(spoken, sound=np.clip(sound, -1, 1))


def excerpt(noise: Sound, n: int, level_dbfs: float, rng: np.random.Generator) -> Sound:
    at = int(rng.integers(len(noise) - n))
    return noise[at : at + n] * np.float32(10 ** (level_dbfs / 20))


def no_speech(corpora: Path, noises: dict[str, Sound], rng: np.random.Generator) -> Iterator[Spoken]:
    """Sounds in which nobody says anything, of the lengths of utterances."""
    for seconds in (0.6, 2.0, 6.0):
        n = round(seconds * SAMPLE_RATE_HZ)
        clicks = np.zeros(n, np.float32)
        clicks[:: SAMPLE_RATE_HZ // 4] = 0.8
        hum = np.sin(2 * np.pi * 100 * np.arange(n, dtype=np.float32) / SAMPLE_RATE_HZ)
        sounds = {"silence": np.zeros(n, np.float32), "clicks": clicks, "hum": 0.2 * hum}
        sounds |= {
            f"{name} {level_dbfs}": excerpt(noises[name], n, level_dbfs, rng)
            for name in ("white", "pink")
            for level_dbfs in (-50, -26)
        }
        for name, sound in sounds.items():
            yield Spoken(f"{name} {seconds}", "", "en", sound)
    for clip in sorted((corpora / "ravdess" / "audio").glob("*.flac"))[::120]:
        room = read(clip)[:ROOM]
        yield Spoken(f"room {clip.stem}", "", "en", room)
        louder = room * np.float32(10 ** (SPEECH_DBFS / 20) / np.sqrt(np.mean(np.square(room)) + 1e-12))
        yield Spoken(f"loud room {clip.stem}", "", "en", np.clip(np.tile(louder, 3), -1, 1))
