"""Looks at pictures as they arrive and remembers what the visual student will need of them."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

from streamer.signals import VideoFrame
from telme.features.sightings import Pixels, Sighting

log = logging.getLogger(__name__)

# Bounds what is remembered, should nobody forget: 90 s of whole 224-pixel pictures at 5 a second.
MEMORY_BYTES = 64 << 20


@dataclass
class PictureCounters:
    """What became of the pictures since the stream began.

    broken: 1 once their source has failed, after which none come any more.
    """

    seen: int = 0
    without_face: int = 0
    several_faces: int = 0
    failed: int = 0
    broken: int = 0


class Watcher:
    """Looks at frames in a worker thread and keeps what the newest of them show.

    see: frame (H, W, 3) uint8 RGB -> its faces ready for the model, the largest first; none where none is to be seen.
    """

    def __init__(self, see: Callable[[Pixels], list[Sighting]], worker: Executor) -> None:
        self.counters = PictureCounters()
        self._see = see
        self._worker = worker
        self._kept: deque[tuple[float, list[Sighting]]] = deque()
        self._kept_bytes = 0
        self._watched_until_s = 0.0
        self._ended = False
        self._advanced = asyncio.Condition()

    async def watch(self, frames: AsyncIterator[VideoFrame]) -> None:
        """Runs until the frames end. Where they end in an error, it is logged and counted: sound goes on."""
        try:
            async for frame in frames:
                await self._remember(frame.time_s, await self._look_at(frame))
        except Exception:
            self.counters.broken += 1
            log.exception("pictures have ended in an error; sound goes on without them")
        finally:
            async with self._advanced:
                self._ended = True
                self._advanced.notify_all()

    async def between(self, start_s: float, end_s: float, wait_s: float) -> list[list[Sighting]]:
        """What was seen in [start_s, end_s), picture by picture, after waiting until it was looked at.

        Pictures that show no face are left out.

        wait_s: longest wait in seconds, for the camera may have stopped.
        """
        try:
            async with asyncio.timeout(wait_s), self._advanced:
                await self._advanced.wait_for(lambda: self._ended or self._watched_until_s >= end_s)
        except TimeoutError:
            pass  # an event with the pictures at hand is worth more than none
        return [sightings for time_s, sightings in self._kept if start_s <= time_s < end_s]

    @property
    def remembered(self) -> int:
        """How many pictures are kept."""
        return len(self._kept)

    def forget_before(self, time_s: float) -> None:
        """Drop what was seen before a time that nobody asks for any more."""
        while self._kept and self._kept[0][0] < time_s:
            self._drop_oldest()

    async def _look_at(self, frame: VideoFrame) -> list[Sighting]:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, self._see, frame.image)
        except Exception:
            # A picture that the detector cannot digest costs that picture, not the stream.
            self.counters.failed += 1
            log.exception("a picture could not be looked at", extra={"failed": self.counters.failed})
            return []

    async def _remember(self, time_s: float, sightings: list[Sighting]) -> None:
        async with self._advanced:
            self.counters.seen += 1
            self._watched_until_s = time_s
            if not sightings:
                self.counters.without_face += 1
            else:
                self.counters.several_faces += len(sightings) > 1
                self._kept.append((time_s, sightings))
                self._kept_bytes += _bytes(sightings)
                while self._kept_bytes > MEMORY_BYTES:
                    self._drop_oldest()
            self._advanced.notify_all()

    def _drop_oldest(self) -> None:
        self._kept_bytes -= _bytes(self._kept.popleft()[1])


def _bytes(sightings: Iterable[Sighting]) -> int:
    return sum(sighting.nbytes for sighting in sightings)
