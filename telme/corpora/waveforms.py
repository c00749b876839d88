"""The sound of utterances: decoded, at one rate, one channel."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from av import FFmpegError
from faster_whisper.audio import decode_audio

from telme.corpora.records import Utterance

log = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]
SAMPLE_RATE_HZ = 16_000


class WaveformError(Exception):
    """A file without usable sound; the message says why."""


@dataclass(frozen=True)
class Clip:
    """An utterance with its sound.

    corpus: the key of the corpus that it comes from, such as "ravdess".
    samples: (n,) in [-1, 1], at the rate they were loaded at.
    """

    corpus: str
    utterance: Utterance
    samples: Samples


def read(path: Path, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Samples:
    """Decode a sound or video file to samples (n,) in [-1, 1] at a rate, all channels mixed to one.

    Raises WaveformError where the file is missing, damaged or silent in the sense of having no sound at all.
    """
    try:
        if path.suffix.lower() in (".wav", ".flac"):  # ten times faster than FFmpeg on short clips
            samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
            samples = soxr.resample(samples.mean(axis=1), rate_hz, sample_rate_hz)
        else:
            samples = decode_audio(str(path), sample_rate_hz)
    except (OSError, soundfile.LibsndfileError, FFmpegError, IndexError, ValueError) as error:
        raise WaveformError(f"{path} holds no readable sound ({error}).") from error
    if not samples.size or not np.isfinite(samples).all():
        raise WaveformError(f"{path} holds no samples, or some that are not numbers.")
    return np.ascontiguousarray(samples, np.float32)


def load(
    corpus: str, utterances: Iterable[Utterance], min_s: float, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> list[Clip]:
    """Decode all utterances of a corpus into memory.

    Those without sound, with a damaged file or shorter than `min_s` are left out, counted and logged.
    """
    clips: list[Clip] = []
    dropped: Counter[str] = Counter()
    for utterance in utterances:
        if utterance.audio is None:
            dropped["no sound file"] += 1
            continue
        try:
            samples = read(utterance.audio, sample_rate_hz)
        except WaveformError as error:
            log.warning("%s", error)
            dropped["sound file unreadable"] += 1
            continue
        if len(samples) < min_s * sample_rate_hz:
            dropped[f"shorter than {min_s:g} s"] += 1
            continue
        clips.append(Clip(corpus, utterance, samples))
    for reason, count in dropped.items():
        log.warning("%s: %d utterances left out: %s", corpus, count, reason)
    return clips
