"""Reading an open source's sound and picture at the same time, as the pipeline does."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamer.signals import AudioChunk, Source, VideoFrame

AWAY_S = 4.0  # so long that the pauses between attempts are the longest
BACK_S = 4.0  # what is promised is 2 s from a device's return until it is read; the rest is for a busy machine


@dataclass
class Reading:
    """What came so far. `order` is the order in which chunks and frames came."""

    chunks: list[AudioChunk] = field(default_factory=list)
    frames: list[VideoFrame] = field(default_factory=list)
    order: list[AudioChunk | VideoFrame] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def gaps(self) -> list[int]:
        """Samples missing between chunks that do not touch."""
        pairs = zip(self.chunks, self.chunks[1:], strict=False)
        return [after.start - before.end for before, after in pairs if after.start != before.end]

    def sound(self) -> npt.NDArray[np.float32]:
        """Everything heard, at its place on the stream clock, with silence in the gaps."""
        samples = np.zeros(self.chunks[-1].end if self.chunks else 0, np.float32)
        for chunk in self.chunks:
            samples[chunk.start : chunk.end] = chunk.samples
        return samples

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20) -> None:
        async with asyncio.timeout(timeout_s), self.changed:
            await self.changed.wait_for(condition)

    async def seconds_until_more(self, items: Sequence[object]) -> float:
        """From now until something is added to `chunks` or `frames`."""
        before, asked_s = len(items), time.monotonic()
        await self.until(lambda: len(items) > before)
        return time.monotonic() - asked_s

    async def note(self, item: AudioChunk | VideoFrame) -> None:
        async with self.changed:
            self.order.append(item)
            if isinstance(item, AudioChunk):
                self.chunks.append(item)
            else:
                self.frames.append(item)
            self.changed.notify_all()


@asynccontextmanager
async def reading(source: Source) -> AsyncIterator[Reading]:
    """Opens the source; leaving the block stops reading and closes it."""
    got = Reading()
    async with source:
        tasks = [asyncio.create_task(_read(items, got)) for items in (source.audio(), source.frames())]
        try:
            yield got
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def read_all(source: Source) -> Reading:
    """A source that ends, from its beginning to its end."""
    got = Reading()
    async with source, asyncio.TaskGroup() as tasks:
        tasks.create_task(_read(source.audio(), got))
        tasks.create_task(_read(source.frames(), got))
    return got


async def _read(items: AsyncIterator[AudioChunk] | AsyncIterator[VideoFrame], got: Reading) -> None:
    async for item in items:
        await got.note(item)
