"""The sound of utterances: decoded, at one rate, one channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from av.error import FFmpegError

from telme.corpora import decoding
from telme.corpora.decoding import DecodedFiles, DecodeError
from telme.corpora.records import Utterance

Samples = npt.NDArray[np.float32]
SAMPLE_RATE_HZ = 16_000


class WaveformError(DecodeError):
    """A file without usable sound; the message says why."""

    def __init__(self, message: str, reason: str = "sound file unreadable") -> None:
        super().__init__(message, reason)


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
            samples = _sound_of_video(path, sample_rate_hz)
    except (OSError, soundfile.LibsndfileError, FFmpegError, IndexError, ValueError) as error:
        raise WaveformError(f"{path} holds no readable sound ({error}).") from error
    if not samples.size or not np.isfinite(samples).all():
        raise WaveformError(f"{path} holds no samples, or some that are not numbers.")
    return np.ascontiguousarray(samples, np.float32)


def _sound_of_video(path: Path, sample_rate_hz: int) -> Samples:
    # FFmpeg mixes integers so that they cannot overflow; floats would come out louder, and above 1.
    resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate_hz)
    with av.open(str(path), metadata_errors="replace") as container:
        heard = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    heard += resampler.resample(None)  # what the filter still holds
    samples = np.concatenate([chunk.to_ndarray()[0] for chunk in heard])
    return np.asarray(samples / 32768, np.float32)


def load(
    corpus: str,
    utterances: Sequence[Utterance],
    min_s: float,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    files: DecodedFiles | None = None,
) -> list[Clip]:
    """Decode all utterances of a corpus into memory.

    Those without sound, with a damaged file or shorter than `min_s` are left out, counted and logged.
    files: keeps what was decoded; worth it for the sound of videos, whose decoding takes long.
    """

    def decode(utterance: Utterance) -> Samples:
        path = utterance.audio
        if path is None:
            raise WaveformError("", "no sound file")
        if files is None:
            samples = read(path, sample_rate_hz)
        else:
            recipe = f"sound {sample_rate_hz} Hz, one channel"
            samples = decoding.read(files.fetch(path, recipe, lambda: read(path, sample_rate_hz)))
        if len(samples) < min_s * sample_rate_hz:
            raise WaveformError("", f"shorter than {min_s:g} s")
        return samples

    decoded = decoding.decode_all(corpus, "sound", utterances, decode)
    return [Clip(corpus, utterance, samples) for utterance, samples in decoded]
