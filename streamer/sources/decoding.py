"""Packets of a container to chunks and frames on the stream clock."""

import logging
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.packet import Packet
from av.video.reformatter import Interpolation

from streamer.signals import SAMPLE_RATE_HZ, AudioChunk, SourceCounters, VideoFrame
from streamer.sources.cancellation import CancellationGuard
from streamer.sources.container import RATES_HZ
from streamer.sources.picture import FrameGrid, reduced_size
from streamer.sources.resample import Resampler

log = logging.getLogger(__name__)

JITTER_S = 0.02  # timestamps that are off by less are the container's rounding
JUMP_S = 600.0  # a timestamp that is farther ahead is no gap: nobody would wait for it


class SoundDecoder:
    """Audio packets to chunks.

    Samples follow each other as long as their timestamps agree with their number. A later timestamp
    opens a gap in the chunks' starts. An earlier one, as at the joint of two concatenated
    recordings, or one more than JUMP_S later is taken as a clock that was set: the sound goes on without a gap.
    What lies before the position from which it begins is a server's store of what was heard already, and left out.
    """

    def __init__(self, name: str, zero_s: float, counters: SourceCounters, position: int = 0) -> None:
        """
        zero_s: the container's timestamp that is the stream's start.
        position: index on the stream clock from which samples are lost if they start later.
        """
        self.position = position
        self.zero_s = zero_s
        self._name = name
        self._heard_until_s = position / SAMPLE_RATE_HZ
        self._counters = counters
        self._guard = CancellationGuard(name)
        self._begun = position == 0
        self._damaged = position > 0
        self._run: Resampler | None = None
        self._rate_hz = 0
        self._next_s = position / SAMPLE_RATE_HZ

    def feed(self, packet: "Packet[av.AudioStream]") -> Iterator[AudioChunk]:
        try:
            frames = packet.decode()
        except FFmpegError as error:
            log.debug("%s: skipped a damaged packet of sound: %s", self._name, error.strerror)
            self._damaged = True
            return
        for frame in frames:
            yield from self._feed_frame(frame)

    def finish(self) -> Iterator[AudioChunk]:
        """What the resampler still holds; ends the run."""
        if self._run is not None:
            yield from self._run.finish()
            self.position = self._run.position
            self._run = None

    def _feed_frame(self, frame: av.AudioFrame) -> Iterator[AudioChunk]:
        if frame.sample_rate not in RATES_HZ:
            self._damaged = True
            return
        time_s = self._next_s if frame.time is None else frame.time - self.zero_s
        end_s = time_s + frame.samples / frame.sample_rate
        if not self._begun:  # on a later connection, which may come after any time
            if end_s <= self._heard_until_s + JITTER_S:
                return
            self._begun = True
        elif not -JITTER_S <= time_s - self._next_s <= JUMP_S:
            log.debug("%s: the clock of the sound was set by %.3f s", self._name, time_s - self._next_s)
            self.zero_s += time_s - self._next_s
            time_s = self._next_s
        gap = time_s > self._next_s + JITTER_S
        if self._run is None or gap or frame.sample_rate != self._rate_hz:
            yield from self.finish()
            self._rate_hz = frame.sample_rate
            self._run = self._begin(time_s)
            self._next_s = time_s
        yield from self._run.feed(self._guard(samples_of(frame), frame.sample_rate))
        self._next_s += frame.samples / frame.sample_rate

    def _begin(self, time_s: float) -> Resampler:
        start = max(self.position, round(time_s * SAMPLE_RATE_HZ))
        if self._damaged:
            self._counters.lost_samples += start - self.position
            log.warning("%s: %d samples of sound (16 kHz) are lost", self._name, start - self.position)
            self._damaged = False
        return Resampler(self._rate_hz, start)


class PictureDecoder:
    """Video packets to the frames that a FrameGrid chooses."""

    def __init__(
        self, name: str, zero_s: float, grid: FrameGrid, counters: SourceCounters, position_s: float = 0.0
    ) -> None:
        """
        zero_s: the container's timestamp that is the stream's start.
        position_s: on the stream clock, what was seen already; pictures from before it are left out.
        """
        self._name = name
        self._begun = position_s == 0
        self._zero_s = zero_s
        self._grid = grid
        self._counters = counters
        self._last_s = position_s

    def feed(self, packet: "Packet[av.VideoStream]") -> Iterator[VideoFrame]:
        try:
            frames = packet.decode()
        except FFmpegError as error:
            log.debug("%s: skipped a damaged packet of the picture: %s", self._name, error.strerror)
            self._counters.dropped_frames += 1
            return
        for frame in frames:
            if frame.time is None:
                continue
            time_s = frame.time - self._zero_s
            if not self._begun:
                if time_s < self._last_s:
                    continue
                self._begun = True
            elif not 0 <= time_s - self._last_s <= JUMP_S:
                self._zero_s += time_s - self._last_s
                time_s = self._last_s
            self._last_s = time_s
            if self._grid.takes(time_s):
                yield VideoFrame(time_s, image_of(frame))


def samples_of(frame: av.AudioFrame) -> npt.NDArray[np.float32]:
    """(n, channels) float32, full scale is 1."""
    if frame.format.name.startswith("s64"):  # which NumPy is not given
        (frame,) = av.AudioResampler(format="dbl").resample(frame)
    samples: npt.NDArray[Any] = frame.to_ndarray()  # (channels, n) if planar, else (1, n * channels)
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    floats = samples.astype(np.float32)
    if samples.dtype.kind == "u":  # 8-bit files are unsigned, with silence at 128
        floats -= 128
        floats /= 128
    elif samples.dtype.kind == "i":
        floats /= -np.iinfo(samples.dtype).min
    return floats


def image_of(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, upright, the longer side at most SIDE_MAX_PX."""
    width, height = reduced_size(frame.width, frame.height)
    # One pass of swscale converts and scales; its bilinear filter widens with the ratio, so nothing aliases.
    reduced = frame.reformat(width, height, "rgb24", interpolation=Interpolation.BILINEAR)
    image: npt.NDArray[np.uint8] = np.ascontiguousarray(np.rot90(reduced.to_ndarray(), round(frame.rotation / 90)))
    return image
