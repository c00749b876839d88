"""The pictures of utterances: evenly spaced, as the visual student sees them, decoded once and kept on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from telme.bundle import VisualSpec
from telme.corpora.decoding import DecodedFiles, DecodeError, decode_all, read
from telme.corpora.records import Span, Utterance
from telme.features.sightings import Pixels
from telme.features.video import VideoFeatures


class FootageError(DecodeError):
    """A video, or a stretch of one, without usable pictures."""


@dataclass(frozen=True)
class Footage:
    """An utterance with its pictures, which lie on disk: those of a whole corpus would not fit into memory."""

    utterance: Utterance
    file: Path

    def pictures(self) -> Pixels:
        """(n, S, S) grey or (n, S, S, 3) RGB, n from 1 to the specification's number."""
        return read(self.file)


def load(corpus: str, utterances: Sequence[Utterance], spec: VisualSpec, files: DecodedFiles) -> list[Footage]:
    """Decode the pictures of all utterances, except those that `files` already holds.

    Those without a video, or with a damaged one, are left out, counted and logged.
    corpus: for progress and log. spec: of whole pictures.
    """
    features = VideoFeatures(spec, detector=None)

    def decode(utterance: Utterance) -> Path:
        video, span = utterance.video, utterance.video_span_s
        if video is None:
            raise FootageError("", "no video file")
        recipe = f"pictures {spec.model_dump_json()} {span}"
        return files.fetch(video, recipe, lambda: pictures(video, features, spec.frames, span))

    return [Footage(utterance, file) for utterance, file in decode_all(corpus, "pictures", utterances, decode)]


def pictures(path: Path, features: VideoFeatures, count: int, span_s: Span | None = None) -> Pixels:
    """Pictures that are on screen at `count` evenly spaced moments, the middles of equal parts of the span.

    A picture that stays on screen for several moments comes once. None is from outside the span.
    span_s: start and end within the video; None is all of it.
    Returns (n, S, S) or (n, S, S, 3), n from 1 to `count`.
    Raises FootageError where the file is damaged or shows nothing in the span.
    """
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise FootageError(f"{path} holds no pictures.", "video file without pictures")
            prepared = [features.prepare(picture) for picture in _shown(container, count, span_s)]
    except FFmpegError as error:
        raise FootageError(f"{path} holds no readable pictures ({error}).", "video file unreadable") from error
    seen = [picture for picture in prepared if picture is not None]
    if not seen:
        raise FootageError(f"{path} shows nothing {_named(span_s)}.", "video shows nothing in the utterance's time")
    return np.stack(seen)


def _shown(container: InputContainer, count: int, span_s: Span | None) -> Iterator[Pixels]:
    stream = container.streams.video[0]
    start_s, end_s = span_s or (0.0, _length_s(container))
    moments = [start_s + (2 * i + 1) * (end_s - start_s) / (2 * count) for i in range(count)]
    origin_s = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
    if start_s > 0:
        container.seek(round((origin_s + start_s) * av.time_base))  # to the key frame before it
    latest = None
    for frame in container.decode(stream):
        if frame.time is None:
            continue
        time_s = frame.time - origin_s
        while moments and time_s > moments[0]:  # at that moment the frame before this one is on screen
            moments.pop(0)
            if latest is not None:
                yield _rgb(latest)
                latest = None
        if not moments:
            return
        if time_s >= start_s:
            latest = frame
    if latest is not None:
        yield _rgb(latest)


def _rgb(frame: av.VideoFrame) -> Pixels:
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _length_s(container: InputContainer) -> float:
    stream = container.streams.video[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration / av.time_base)
    raise FootageError(f"{container.name} does not say how long it is.", "video file that does not say its length")


def _named(span_s: Span | None) -> str:
    return "at all" if span_s is None else f"from {span_s[0]:g} to {span_s[1]:g} s"
