"""A long conversation for benchmarks: real speech of a corpora folder, joined with pauses, under a real picture.

RAVDESS (actors 17 to 20, who take no part in training), EmoDB (speakers 13 and 14, likewise), GRID and Kennedy's
sentence, in an order and with pauses that a seed decides. The picture is that of the demo's conversation, in a loop:
faces to find and to follow, though not those of the voices.
"""

import subprocess
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from faster_whisper.audio import decode_audio

RATE_HZ = 16_000
PAUSE_S = (0.8, 2.5)  # between two clips, besides the quiet that they have themselves
ROOM = 5e-4  # standard deviation of the noise throughout: a pause is as quiet as a room, not as a file
FACES = Path(__file__).parents[1] / "demo" / "conversation.mp4"
FOUND_IN = (
    "clips/grid_*.mpg",
    "clips/jfk.flac",
    "ravdess/audio/*-1[7-9].flac",
    "ravdess/audio/*-20.flac",
    "emodb/audio/1[34]*.flac",
)

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Medium:
    """A file with sound and picture, and how many clips of speech are in it."""

    path: Path
    clips: int
    seconds: float


def build(corpora: Path, folder: Path, clips: int, *, parts: int = 1, seed: int = 1) -> list[Medium]:
    """`parts` files in `folder`, with `clips` clips together. Needs ffmpeg.

    Raises FileNotFoundError where the corpora folder holds no speech.
    """
    rng = np.random.default_rng(seed)
    chosen = _choose(corpora, clips, rng)
    shares = [chosen[part::parts] for part in range(parts)]
    return [_write(folder / f"conversation-{number}", share, rng) for number, share in enumerate(shares, 1) if share]


def _choose(corpora: Path, clips: int, rng: np.random.Generator) -> list[Path]:
    """Whatever there is of the small corpora, and as many of the large ones as are missing; again where all are few."""
    small, large = [], []
    for pattern in FOUND_IN:
        (small if pattern.startswith("clips/") else large).extend(sorted(corpora.glob(pattern)))
    if not small and not large:
        raise FileNotFoundError(f"no speech in {corpora}: it holds none of {', '.join(FOUND_IN)}")
    pool = small + [large[index] for index in rng.permutation(len(large))]
    chosen = [pool[index % len(pool)] for index in range(clips)]
    return [chosen[index] for index in rng.permutation(clips)]


def _write(path: Path, clips: Sequence[Path], rng: np.random.Generator) -> Medium:
    speech = np.concatenate(list(_with_pauses(clips, rng)))
    sound = np.clip(speech + rng.normal(0, ROOM, len(speech)), -1, 1)
    with wave.open(str(path.with_suffix(".wav")), "wb") as file:
        file.setparams((1, 2, RATE_HZ, len(sound), "NONE", ""))
        file.writeframes((32767 * sound).astype("<i2").tobytes())
    seconds = len(sound) / RATE_HZ
    inputs = ["-stream_loop", "-1", "-i", FACES, "-i", path.with_suffix(".wav"), "-map", "0:v", "-map", "1:a"]
    coding = ["-c:v", "copy", "-c:a", "flac", "-t", f"{seconds:.3f}"]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *inputs, *coding, path.with_suffix(".mkv")], check=True)
    path.with_suffix(".wav").unlink()
    return Medium(path.with_suffix(".mkv"), len(clips), seconds)


def _with_pauses(clips: Sequence[Path], rng: np.random.Generator) -> Iterator[Samples]:
    yield _quiet(rng)
    for clip in clips:
        yield decode_audio(str(clip), sampling_rate=RATE_HZ)
        yield _quiet(rng)


def _quiet(rng: np.random.Generator) -> Samples:
    return np.zeros(round(rng.uniform(*PAUSE_S) * RATE_HZ), np.float32)
