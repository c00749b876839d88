"""Makes the demo's media from the corpora: `python demo/build.py CORPORA`, with ffmpeg.

Writes conversation.mp4, acted.flac and expected.json, which tells what is said in them and when.
LICENCES.md names the sources.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
RATE_HZ = 16_000

# A woman and a man alternate. The corpora folder has one sentence of each speaker, so each turn is another person's.
# The names spell the sentences: lrwp9a is "lay red with p nine again".
CONVERSATION = ("lrwp9a", "sbia1a", "lbbc2a", "lbax4n", "brbk7n", "swiz3n")
CLIP_S = 3.0
HELD_S = 0.4  # of the last picture, between two clips; with the clips' own quiet ends the pauses exceed a second

# Actors 17 to 20 take no part in training. (emotion, its RAVDESS code, sentence, actor)
ACTED = (
    ("anger", "05", 1, 17),
    ("joy", "03", 2, 20),
    ("sadness", "04", 1, 18),
    ("anger", "05", 2, 19),
    ("joy", "03", 1, 18),
    ("sadness", "04", 2, 17),
)
SENTENCES = {1: "kids are talking by the door", 2: "dogs are sitting by the door"}
MARGIN_S = 0.3  # kept before and after the speech
PAUSE_S = 0.8  # between two takes, with the margins 1.4 s of quiet

ROOM = "anoisesrc=color=pink:amplitude=0.002:seed=1"  # so that a pause is as quiet as a room, not as a file

GRID = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = dict(zip("z123456789", NUMBERS, strict=True))
LAST = {"a": "again", "n": "now", "p": "please", "s": "soon"}


@dataclass(frozen=True)
class Expected:
    """One utterance: seconds at which its speech begins and ends, what is said, and the emotion acted."""

    start_s: float
    end_s: float
    text: str
    emotion: str


def grid_sentence(name: str) -> str:
    """The sentence that a GRID clip's name spells."""
    *words, letter, digit, last = list(name)
    spelled = [table[code] for table, code in zip(GRID, words, strict=True)]
    return " ".join([*spelled, letter, DIGITS[digit], LAST[last]])


def decode(path: Path) -> npt.NDArray[np.float32]:
    """A file's sound: (n,) in [-1, 1], mono, 16 kHz."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-ac", "1", "-ar", str(RATE_HZ), "-f", "f32le", "-"]
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.float32)


def speech_bounds(samples: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Seconds at which the one utterance in `samples` begins and ends.

    Speech is what comes within 26 dB of the loudest 20 ms, with the hum below 150 Hz left out.
    """
    spectra = np.fft.rfft(samples)
    spectra[np.fft.rfftfreq(len(samples), 1 / RATE_HZ) < 150] = 0
    filtered = np.fft.irfft(spectra, len(samples))
    step = RATE_HZ // 100
    windows = np.lib.stride_tricks.sliding_window_view(filtered, 2 * step)[::step]
    power = (windows**2).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10**-2.6)
    return float(loud[0] * step / RATE_HZ), float((loud[-1] + 2) * step / RATE_HZ)


def ffmpeg(inputs: Sequence[Path], graph: str, *output: str) -> None:
    sources = [argument for path in inputs for argument in ("-i", str(path))]
    repeatable = ["-threads", "1", "-bitexact", "-map_metadata", "-1"]
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", *sources, "-filter_complex", graph, *repeatable, *output], check=True
    )


def build_conversation(corpora: Path, output: Path) -> list[Expected]:
    clips = [corpora / "clips" / f"grid_{name}.mpg" for name in CONVERSATION]
    turn_s = CLIP_S + HELD_S
    turns = "".join(
        f"[{i}:v]tpad=stop_mode=clone:stop_duration=1,trim=duration={turn_s}[v{i}];"
        f"[{i}:a]aformat=sample_rates=48000:channel_layouts=mono,"
        f"afade=t=in:d=0.02,afade=t=out:st=2.95:d=0.02,apad=whole_dur={turn_s},atrim=duration={turn_s}[a{i}];"
        for i in range(len(clips))
    )
    pairs = "".join(f"[v{i}][a{i}]" for i in range(len(clips)))
    graph = (
        f"{turns}{pairs}concat=n={len(clips)}:v=1:a=1[v][speech];"
        f"{ROOM}:sample_rate=48000:duration={turn_s * len(clips)}[room];"
        "[speech][room]amix=normalize=0:duration=first[a]"
    )
    video = ("-map", "[v]", "-c:v", "libx264", "-preset", "slow", "-crf", "26", "-g", "50", "-pix_fmt", "yuv420p")
    ffmpeg(clips, graph, *video, "-map", "[a]", "-c:a", "aac", "-b:a", "64k", "-movflags", "+faststart", str(output))
    bounds = [speech_bounds(decode(clip)) for clip in clips]
    return [
        Expected(round(i * turn_s + start, 2), round(i * turn_s + end, 2), grid_sentence(name), "neutral")
        for i, (name, (start, end)) in enumerate(zip(CONVERSATION, bounds, strict=True))
    ]


def build_acted(corpora: Path, output: Path) -> list[Expected]:
    takes = [
        corpora / "ravdess" / "audio" / f"03-01-{code}-02-{sentence:02}-01-{actor}.flac"
        for _, code, sentence, actor in ACTED
    ]
    expected, graph, now = [], "", PAUSE_S
    for i, (take, (emotion, _, sentence, _)) in enumerate(zip(takes, ACTED, strict=True)):
        start, end = speech_bounds(decode(take))
        expected.append(
            Expected(round(now + MARGIN_S, 2), round(now + MARGIN_S + end - start, 2), SENTENCES[sentence], emotion)
        )
        kept_s = end - start + 2 * MARGIN_S
        graph += (
            f"[{i}:a]atrim=start={start - MARGIN_S}:duration={kept_s},asetpts=PTS-STARTPTS,"
            f"afade=t=in:d=0.05,afade=t=out:st={kept_s - 0.05}:d=0.05,adelay={round(1000 * now)}[a{i}];"
        )
        now += kept_s + PAUSE_S
    mixed = "".join(f"[a{i}]" for i in range(len(takes)))
    graph += f"{ROOM}:sample_rate={RATE_HZ}:duration={now}[room];"
    graph += f"[room]{mixed}amix=inputs={len(takes) + 1}:normalize=0:duration=first[a]"
    ffmpeg(takes, graph, "-map", "[a]", "-c:a", "flac", "-compression_level", "12", "-sample_fmt", "s16", str(output))
    return expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", type=Path, help="folder that holds clips/grid_*.mpg and ravdess/audio/")
    corpora = parser.parse_args().corpora
    expected = {
        "conversation.mp4": build_conversation(corpora, HERE / "conversation.mp4"),
        "acted.flac": build_acted(corpora, HERE / "acted.flac"),
    }
    listed = {file: [asdict(utterance) for utterance in utterances] for file, utterances in expected.items()}
    (HERE / "expected.json").write_text(json.dumps(listed, indent=2) + "\n")


if __name__ == "__main__":
    main()
