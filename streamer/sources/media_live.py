"""A live URL: it runs on whether or not anyone keeps up, and is reopened when it breaks."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import chain
from typing import Any

from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.packet import Packet

from streamer.arrivals import Arrivals
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk, SourceCounters, VideoFrame
from streamer.sources.backoff import Backoff
from streamer.sources.container import connect, is_playlist, longest_silence_s, picture_stream, shown, sound_stream
from streamer.sources.decoding import PictureDecoder, SoundDecoder
from streamer.sources.handover import Handover
from streamer.sources.picture import FrameGrid

log = logging.getLogger(__name__)

SOUND_KEPT = 1500  # chunks, about 30 s, for a reader that falls behind; older sound is lost and counted
PICTURES_KEPT = 4
WAITED_S = 0.005  # reading a packet that is there already takes far less
EARLY_MAX = 2000  # packets, some 20 s, that a server may send at once to a new client
PLAYLIST_BACK_S = 60.0  # a playlist holds so much of what was, at most


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
        self.patience_s = longest_silence_s(address, stall_s)
        self._backoff = backoff
        self._grid = FrameGrid(rate_hz)
        self._sound: Handover[AudioChunk] = Handover(SOUND_KEPT, self._drop_chunk)
        self._pictures: Handover[VideoFrame] = Handover(PICTURES_KEPT, self._drop_frame)
        self._has_picture = picture_stream(container) is not None
        self._watched = False
        self._zero_s: float | None = None  # the timestamp that is the stream's start, by the last connection
        self._position = 0  # end of the sound so far, an index on the stream clock
        self._arrivals = Arrivals()
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
        if not self._has_picture:
            return
        self._watched = True
        async for frame in self._pictures:
            yield frame

    def _run(self, container: InputContainer) -> None:
        connection: InputContainer | None = container
        pauses_s = self._backoff.pauses_s()
        try:
            while connection is not None:
                heard = self._position
                with connection:
                    self._receive(connection)
                if self._position > heard:
                    pauses_s = self._backoff.pauses_s()
                connection = self._reconnect(pauses_s)
        except Exception as error:  # a fault of ours: the readers must not take it for the end
            self._sound.end(error)
            self._pictures.end(error)
            raise

    def _receive(self, container: InputContainer) -> None:
        """Hand over what comes until the connection breaks."""
        picture = picture_stream(container)
        packets = container.demux(*(s for s in (sound_stream(container), picture) if s is not None))
        sound: SoundDecoder | None = None
        try:
            early, zero_s = self._align(packets, container.start_time)
            sound = SoundDecoder(self._name, zero_s, self.counters, self._position)
            seen_s = self._position / SAMPLE_RATE_HZ
            pictures = PictureDecoder(self._name, zero_s, self._grid, self.counters, seen_s)
            for packet in chain(early, packets):
                if self._stopping.is_set():
                    return
                if packet.stream is not picture:
                    self._hear(sound.feed(packet))
                elif self._watched:
                    for frame in pictures.feed(packet):
                        self._pictures.push(frame)
            log.warning("%s ended after %.1f s", self._name, self._now_s())
        except ExitError:
            self.counters.stalls += 1
            log.warning("%s delivered nothing for %.1f s", self._name, self.patience_s)
        except FFmpegError as error:
            log.warning("%s broke after %.1f s: %s", self._name, self._now_s(), error.strerror)
        if sound is not None:
            self._zero_s = sound.zero_s
            self._hear(sound.finish())

    def _align(self, packets: "Iterator[Packet[Any]]", start_us: int | None) -> "tuple[list[Packet[Any]], float]":
        """The packets that wait already, and the container's timestamp that is the stream's start, in seconds.

        start_us: the container's first timestamp, if it is known. The first connection begins the stream. On a
        later one, the packet that had to be waited for is the newest there is: it is from this moment of the stream,
        and those before it may have been heard already. A playlist's packets come by the segment, whose age nobody
        knows: its timestamps go on where they were, if they can.
        """
        start_s = None if start_us is None else start_us / 1e6
        if is_playlist(self._address) and start_s is not None and self._zero_s is not None:
            behind_s = self._now_s() - (start_s - self._zero_s)
            if 0 <= behind_s <= PLAYLIST_BACK_S:
                return [], self._zero_s
        early, newest_s = [], start_s or 0.0
        asked_s = time.monotonic()
        for packet in packets:
            early.append(packet)
            arrived_s = time.monotonic()
            if packet.dts is not None:
                newest_s = float(packet.dts * packet.time_base)
                if self._position == 0:
                    return early, newest_s if start_s is None else start_s
                if arrived_s - asked_s > WAITED_S or len(early) >= EARLY_MAX:
                    break
            asked_s = arrived_s
        return early, newest_s - self._now_s()

    def _reconnect(self, pauses_s: Iterator[float]) -> InputContainer | None:
        """A new connection; None when stopped."""
        for pause_s in pauses_s:
            if self._stopping.wait(pause_s):
                break
            try:
                container = connect(self._address, self._stall_s)
            except FFmpegError as error:
                log.debug("%s is still away: %s", self._name, error.strerror)
                continue
            if sound_stream(container) is not None:
                self.counters.reopened += 1
                away_s = self._now_s() - self._position / SAMPLE_RATE_HZ
                log.warning("%s is back after %.1f s", self._name, away_s)
                return container
            container.close()
        return None

    def _now_s(self) -> float:
        return self._arrivals.now_s()

    def _hear(self, chunks: Iterable[AudioChunk]) -> None:
        for chunk in chunks:
            self._position = chunk.end
            self._arrivals.heard(chunk.end / SAMPLE_RATE_HZ)
            self._sound.push(chunk)

    def _drop_chunk(self, chunk: AudioChunk) -> None:
        self.counters.overruns += 1
        self.counters.lost_samples += len(chunk.samples)

    def _drop_frame(self, _: VideoFrame) -> None:
        self.counters.dropped_frames += 1
