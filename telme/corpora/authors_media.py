"""Sound and pictures of a clip as the TelME authors' code decodes them, to repeat their evaluation.

Source: `utils.py` of github.com/yuntaeyang/TelME, and what it calls: librosa 0.10.0's `load`, OpenCV's VideoCapture
and the image processor of VideoMAE in transformers 4.27.2.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile
import soxr
from av.error import FFmpegError
from PIL import Image

from telme.corpora.footage import FootageError
from telme.corpora.records import Span
from telme.corpora.waveforms import Samples, WaveformError
from telme.features.sightings import Pixels

SAMPLE_RATE_HZ = 22_050  # librosa's own, where no other is asked for
FRAMES = 8
_AROUND_S = 1.0  # before and after an utterance of IEMOCAP


def sound(path: Path) -> Samples:
    """Samples (n,) at 22,050 Hz in [-1, 1], the mean of all channels.

    Resampled by soxr at high quality, and as long as the ratio of the rates says, rounded up, as librosa sees to.
    Raises WaveformError where the file holds no readable sound.
    """
    try:
        if path.suffix.lower() == ".wav":
            channels, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        else:
            channels, rate_hz = _sound_of_video(path)
        mono: Samples = channels.mean(axis=1)
        if rate_hz == SAMPLE_RATE_HZ:
            return mono
        samples = np.zeros(math.ceil(len(mono) * SAMPLE_RATE_HZ / rate_hz), np.float32)
        resampled = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, quality="HQ")[: len(samples)]
    except (OSError, soundfile.LibsndfileError, FFmpegError, IndexError, ValueError) as error:
        raise WaveformError(f"{path} holds no readable sound ({error}).") from error
    samples[: len(resampled)] = resampled
    return samples


def _sound_of_video(path: Path) -> tuple[Samples, int]:
    """(n, channels) at the file's own rate, through 16-bit integers as the `ffmpeg` program gives them to librosa."""
    resampler = av.AudioResampler(format="s16")
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.audio[0]
        heard = [out for frame in container.decode(stream) for out in resampler.resample(frame)]
        heard += resampler.resample(None)
        integers = np.concatenate([chunk.to_ndarray()[0] for chunk in heard]).reshape(-1, heard[0].layout.nb_channels)
        return integers.astype(np.float32) / np.float32(32768), heard[0].sample_rate


def pictures(path: Path, side: int, span_s: Span | None = None) -> Pixels:
    """The eight pictures (8, side, side, 3) of an utterance, BGR: (H, W) scaled until the shorter is `side`, cropped.

    span_s: where the utterance is in a longer video; one second more is looked at on both sides. None: all of it.
    Of N frames those are taken whose number, from 1, N // 8 divides, until there are eight; where there are too few,
    the last one is repeated.
    Raises FootageError where the file holds no readable picture there.
    """
    video = cv2.VideoCapture(str(path))
    try:
        chosen = [_fitted(frame, side) for frame in (_of_clip(video) if span_s is None else _within(video, span_s))]
    finally:
        video.release()
    if not chosen:
        raise FootageError(f"{path} holds no readable pictures.", "video file unreadable")
    return np.stack(chosen + [chosen[-1]] * (FRAMES - len(chosen)))


def _of_clip(video: cv2.VideoCapture) -> Iterator[Pixels]:
    announced = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    step, number, taken = max(1, announced // FRAMES), 0, 0
    while taken < FRAMES and (frame := _next(video)) is not None:
        number += 1
        if number % step == 0:
            taken += 1
            yield frame


def _within(video: cv2.VideoCapture, span_s: Span) -> Iterator[Pixels]:
    rate_hz = video.get(cv2.CAP_PROP_FPS)
    start_s, end_s = max(span_s[0] - _AROUND_S, 0), span_s[1] + _AROUND_S
    step, number, taken = max(1.0, rate_hz * (end_s - start_s) // FRAMES), 0, 0
    while taken < FRAMES and (frame := _next(video)) is not None:
        place = int(video.get(cv2.CAP_PROP_POS_FRAMES))  # of the frame after this one
        if place > rate_hz * end_s:
            return
        if place >= rate_hz * start_s:
            number += 1
            if number % step == 0:
                taken += 1
                yield frame


def _next(video: cv2.VideoCapture) -> Pixels | None:
    found, frame = video.read()
    return np.asarray(frame, np.uint8) if found else None


def _fitted(frame: Pixels, side: int) -> Pixels:
    height, width = frame.shape[:2]
    shorter = min(height, width)
    size = (int(side * width / shorter), int(side * height / shorter))
    scaled = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
    top, left = (scaled.shape[0] - side) // 2, (scaled.shape[1] - side) // 2
    return scaled[top : top + side, left : left + side]
