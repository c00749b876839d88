"""A media file or URL with sound and, if it has one, a picture."""

import asyncio
from collections.abc import AsyncIterator
from typing import Self

from streamer.signals import AudioChunk, SourceCounters, VideoFrame
from streamer.sources.backoff import Backoff
from streamer.sources.container import is_live, open_media
from streamer.sources.media_file import MediaFile
from streamer.sources.media_live import LiveMedia


class Media:
    """What is behind an address: only opening it tells a file from a live stream."""

    def __init__(self, address: str, *, rate_hz: float, fast: bool, stall_s: float, backoff: Backoff) -> None:
        """
        rate_hz: frames a second.
        fast: read a file as fast as the reader can instead of at real-time pace; live streams ignore it.
        stall_s: a live stream that delivers nothing for so long is reopened, after the pauses of `backoff`.
        """
        self._address = address
        self._rate_hz = rate_hz
        self._fast = fast
        self._stall_s = stall_s
        self._backoff = backoff
        self._opened: MediaFile | LiveMedia | None = None

    @property
    def live(self) -> bool:
        return self._reader.live

    @property
    def patience_s(self) -> float:
        return self._reader.patience_s

    @property
    def counters(self) -> SourceCounters:
        return self._reader.counters

    async def __aenter__(self) -> Self:
        container = await asyncio.to_thread(open_media, self._address, self._stall_s)
        if is_live(self._address, container):
            self._opened = LiveMedia(self._address, container, self._rate_hz, self._stall_s, self._backoff)
        else:
            self._opened = MediaFile(self._address, container, self._rate_hz, self._fast, self._stall_s)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._reader.close()

    def audio(self) -> AsyncIterator[AudioChunk]:
        return self._reader.audio()

    def frames(self) -> AsyncIterator[VideoFrame]:
        return self._reader.frames()

    @property
    def _reader(self) -> MediaFile | LiveMedia:
        if self._opened is None:
            raise RuntimeError("a source is used inside `async with`")
        return self._opened
