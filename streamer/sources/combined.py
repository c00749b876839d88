"""Sound from a microphone and the picture from a camera, as one source."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import astuple
from typing import Self

from streamer.signals import AudioChunk, SourceCounters, VideoFrame
from streamer.sources.camera import Camera
from streamer.sources.microphone import Microphone


class MicrophoneAndCamera:
    """Two devices, each repaired on its own. The microphone's sample counter is the clock of both."""

    live = True
    patience_s = 0.0

    def __init__(self, microphone: Microphone, camera: Camera) -> None:
        self._microphone = microphone
        self._camera = camera

    @property
    def counters(self) -> SourceCounters:
        """The sum of both."""
        pairs = zip(astuple(self._microphone.counters), astuple(self._camera.counters), strict=True)
        return SourceCounters(*(sum(pair) for pair in pairs))

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._microphone)
            await stack.enter_async_context(self._camera)
            self._close = stack.pop_all().aclose
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    def audio(self) -> AsyncIterator[AudioChunk]:
        return self._microphone.audio()

    def frames(self) -> AsyncIterator[VideoFrame]:
        return self._camera.frames()
