"""A media file, or a URL of finite length: nothing of it is lost."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

from av.container import InputContainer
from av.error import FFmpegError

from streamer.signals import SAMPLE_RATE_HZ, AudioChunk, SourceCounters, VideoFrame
from streamer.sources.container import connect, duration_s, picture_stream, shown, sound_stream
from streamer.sources.decoding import PictureDecoder, SoundDecoder
from streamer.sources.handover import Handover, feed
from streamer.sources.picture import FrameGrid

log = logging.getLogger(__name__)

SOUND_AHEAD = 64  # chunks that the decoder may be ahead of the reader: about a second
SHORT_S = 1.0  # what is missing at the end beyond that is told
PICTURES_AHEAD = 4  # frames of up to 3 MB each


class MediaFile:
    """Sound and picture of a file, each from its own container and thread, so that neither waits for the other's data.

    `frames()` and `audio()` move together: while both are read, a chunk is handed out when the reader
    has taken every frame from before the chunk's end, and no frame before its chunk is due. What a reader knows
    at a moment of the stream is therefore the same at any pace and on any machine.
    """

    live = False
    patience_s = 0.0

    def __init__(self, address: str, container: InputContainer, rate_hz: float, fast: bool, stall_s: float) -> None:
        """`container`: open at its beginning; owned from here on."""
        self.counters = SourceCounters()
        self._address = address
        self._container = container
        self._grid_rate_hz = rate_hz
        self._stall_s = stall_s
        self._zero_s = (container.start_time or 0) / 1e6
        self._pace = None if fast else Pace()
        self._order = _Order()
        self._handovers: list[Handover[AudioChunk] | Handover[VideoFrame]] = []
        self._threads: list[threading.Thread] = []

    async def close(self) -> None:
        """Stop the threads and close what they read."""
        for handover in self._handovers:
            handover.close()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        await asyncio.to_thread(self._container.close)

    async def audio(self) -> AsyncIterator[AudioChunk]:
        handover: Handover[AudioChunk] = Handover(SOUND_AHEAD)
        self._handovers.append(handover)
        self._threads.append(feed(self._sound(), handover, "sound decoder"))
        self._order.hearing = True
        try:
            async for chunk in handover:
                end_s = chunk.end / SAMPLE_RATE_HZ
                await self._due(end_s)
                await self._order.pictures_until(end_s)
                yield chunk
        finally:
            self._order.hearing = False

    async def frames(self) -> AsyncIterator[VideoFrame]:
        if picture_stream(self._container) is None:
            return
        handover: Handover[VideoFrame] = Handover(PICTURES_AHEAD)
        self._handovers.append(handover)
        self._threads.append(feed(self._pictures(), handover, "picture decoder"))
        self._order.watching = True
        try:
            async for frame in handover:
                await self._order.turn_of(frame.time_s)
                if not self._order.hearing:
                    await self._due(frame.time_s)
                yield frame
        finally:
            self._order.watching = False

    async def _due(self, time_s: float) -> None:
        # sleep(0): a reader whose data is always ready must still let the loop's other tasks run.
        await asyncio.sleep(0 if self._pace is None else self._pace.wait_s(time_s))

    def _sound(self) -> Iterator[AudioChunk]:
        decoder = SoundDecoder(shown(self._address), self._zero_s, self.counters)
        sound = sound_stream(self._container)
        if sound is None:
            return
        try:
            for packet in self._container.demux(sound):
                yield from decoder.feed(packet)
        except FFmpegError as error:
            log.warning("%s: the sound ends early: %s", shown(self._address), error.strerror)
        yield from decoder.finish()
        there_s, claimed_s = decoder.position / SAMPLE_RATE_HZ, duration_s(self._container, sound)
        if claimed_s is not None and there_s < claimed_s - SHORT_S:
            log.warning(
                "%s: the sound ends after %.1f of %.1f s: the file may be cut off",
                shown(self._address),
                there_s,
                claimed_s,
            )

    def _pictures(self) -> Iterator[VideoFrame]:
        decoder = PictureDecoder(shown(self._address), self._zero_s, FrameGrid(self._grid_rate_hz), self.counters)
        try:
            with connect(self._address, self._stall_s) as container:
                stream = picture_stream(container)
                if stream is None:
                    return
                stream.thread_type = "AUTO"
                for packet in container.demux(stream):
                    yield from decoder.feed(packet)
        except FFmpegError as error:
            log.warning("%s: the picture ends early: %s", shown(self._address), error.strerror)


class Pace:
    """Real time, counted from the first question."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._zero: float | None = None

    def wait_s(self, time_s: float) -> float:
        """Seconds until `time_s` of the stream is due; 0 if it is overdue."""
        now = self._clock()
        if self._zero is None:
            self._zero = now
        return max(0.0, self._zero + time_s - now)


class _Order:
    """Who goes first: pictures before the sound that ends after them. Lives in one event loop."""

    def __init__(self) -> None:
        self._hearing = False
        self._watching = False
        self._released_s = 0.0  # pictures from before here may go
        self._taken_s = 0.0  # pictures from before here are gone
        self._changed = asyncio.Event()

    @property
    def hearing(self) -> bool:
        """Whether someone reads the sound."""
        return self._hearing

    @hearing.setter
    def hearing(self, value: bool) -> None:
        self._hearing = value
        self._notify()

    @property
    def watching(self) -> bool:
        """Whether someone reads the pictures."""
        return self._watching

    @watching.setter
    def watching(self, value: bool) -> None:
        self._watching = value
        self._notify()

    async def pictures_until(self, time_s: float) -> None:
        """Let pictures from before `time_s` go, and wait until they are gone."""
        self._released_s = time_s
        self._notify()
        await self._until(lambda: not self._watching or self._taken_s >= time_s)

    async def turn_of(self, time_s: float) -> None:
        """Wait until the picture at `time_s` may go. The reader has taken all before it, or would not ask."""
        self._taken_s = time_s
        self._notify()
        await self._until(lambda: not self._hearing or time_s < self._released_s)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
