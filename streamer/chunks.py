"""A source's sound as the pipeline reads it: until it is told to stop, and noticing when none comes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from streamer.signals import AudioChunk


async def until(
    stop: asyncio.Event, chunks: AsyncIterator[AudioChunk], silence_s: float | None
) -> AsyncGenerator[AudioChunk | None, None]:
    """The chunks until they end or `stop` is set; None each time that none came for `silence_s` seconds."""
    stopped = asyncio.create_task(stop.wait(), name="stop")
    arriving = asyncio.ensure_future(anext(chunks))
    try:
        while True:
            done, _ = await asyncio.wait({arriving, stopped}, timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
            if stopped in done:
                return
            if arriving not in done:
                yield None
                continue
            try:
                chunk = arriving.result()
            except StopAsyncIteration:
                return
            arriving = asyncio.ensure_future(anext(chunks))
            yield chunk
    finally:
        for task in (arriving, stopped):
            task.cancel()
        await asyncio.gather(arriving, stopped, return_exceptions=True)
