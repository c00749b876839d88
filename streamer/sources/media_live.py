"""A live URL: it runs on whether or not anyone keeps up, and is reopened when it breaks."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator

from av.container import InputContainer
from av.error import ExitError, FFmpegError

from streamer.signals import SAMPLE_RATE_HZ, AudioChunk, SourceCounters, VideoFrame
from streamer.sources.backoff import Backoff
from streamer.sources.container import connect, picture_stream, shown
from streamer.sources.decoding import PictureDecoder, SoundDecoder
from streamer.sources.handover import Handover
from streamer.sources.picture import FrameGrid

_log = logging.getLogger(__name__)

SOUND_KEPT = 1500  # chunks, about 30 s, for a reader that falls behind; older sound is lost and counted
PICTURES_KEPT = 4


class LiveMedia:
    """One connection and one thread for sound and picture.

    The stream clock follows the timestamps of a connection, and the machine's clock from one to the next.
    """

    live = True

    def __init__(
        self, address: str, container: InputContainer, rate_hz: float, stall_s: float, backoff: Backoff
    ) -> None:
        """`container`: the first connection; owned from here on."""
        self.counters = SourceCounters()
        self._address = address
        self._name = shown(address)
        self._stall_s = stall_s
        self._backoff = backoff
        self._grid = FrameGrid(rate_hz)
        self._sound: Handover[AudioChunk] = Handover(SOUND_KEPT, self._drop_chunk)
        self._pictures: Handover[VideoFrame] = Handover(PICTURES_KEPT, self._drop_frame)
        self._watched = False
        self._position = 0  # end of the sound so far, an index on the stream clock
        self._heard_at = time.monotonic()  # when it came
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(container,), name="live media", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Stop the thread. One that waits for the network ends by itself at its time-out."""
        self._stopping.set()
        self._sound.close()
        self._pictures.close()
        await asyncio.to_thread(self._thread.join, self._stall_s)

    async def audio(self) -> AsyncIterator[AudioChunk]:
        async for chunk in self._sound:
            yield chunk

    async def frames(self) -> AsyncIterator[VideoFrame]:
        self._watched = True
        async for frame in self._pictures:
            yield frame

    def _run(self, container: InputContainer) -> None:
        connection: InputContainer | None = container
        start_s = 0.0
        try:
            while connection is not None:
                with connection:
                    self._receive(connection, start_s)
                connection, start_s = self._reconnect()
        except Exception as error:  # a fault of ours: the readers must not take it for the end
            self._sound.end(error)
            self._pictures.end(error)
            raise

    def _receive(self, container: InputContainer, start_s: float) -> None:
        """Hand over what comes until the connection breaks. `start_s`: where it begins on the stream clock."""
        zero_s = (container.start_time or 0) / 1e6 - start_s
        sound = SoundDecoder(self._name, zero_s, self.counters, self._position)
        pictures = PictureDecoder(self._name, zero_s, self._grid)
        picture = picture_stream(container)
        streams = [container.streams.audio[0], *([picture] if picture else [])]
        try:
            for packet in container.demux(*streams):
                if self._stopping.is_set():
                    return
                if packet.stream is not picture:
                    for chunk in sound.feed(packet):
                        self._hear(chunk)
                elif self._watched:
                    for frame in pictures.feed(packet):
                        self._pictures.push(frame)
            _log.warning("%s ended after %.1f s", self._name, self._now_s())
        except ExitError:
            self.counters.stalls += 1
            _log.warning("%s delivered nothing for %.1f s", self._name, self._stall_s)
        except FFmpegError as error:
            _log.warning("%s broke after %.1f s: %s", self._name, self._now_s(), error.strerror)
        for chunk in sound.finish():
            self._hear(chunk)

    def _reconnect(self) -> tuple[InputContainer | None, float]:
        """A new connection and the stream's time at its begin; no connection when stopped."""
        for pause_s in self._backoff.pauses_s():
            if self._stopping.wait(pause_s):
                break
            start_s = self._now_s()
            try:
                container = connect(self._address, self._stall_s)
            except FFmpegError as error:
                _log.debug("%s is still away: %s", self._name, error.strerror)
                continue
            if container.streams.audio:
                self.counters.reopened += 1
                _log.warning("%s is back after %.1f s", self._name, start_s - self._position / SAMPLE_RATE_HZ)
                return container, start_s
            container.close()
        return None, 0.0

    def _now_s(self) -> float:
        return self._position / SAMPLE_RATE_HZ + time.monotonic() - self._heard_at

    def _hear(self, chunk: AudioChunk) -> None:
        self._position = chunk.end
        self._heard_at = time.monotonic()
        self._sound.push(chunk)

    def _drop_chunk(self, chunk: AudioChunk) -> None:
        self.counters.overruns += 1
        self.counters.lost_samples += len(chunk.samples)

    def _drop_frame(self, _: VideoFrame) -> None:
        self.counters.dropped_frames += 1
