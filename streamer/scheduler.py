"""Whose work goes next, where several streams share models."""

import asyncio
from collections.abc import Callable
from types import TracebackType


class Scheduler:
    """Works for at most `at_once` streams at a time, fairly.

    Of the streams that wait, those with urgent work go first; among equals, the one that was served longest ago. So a
    stream whose work is urgent waits until each other one was served once at most, however much that one has to do.
    For one event loop.

        place = scheduler.join(urgent)
        async with place:
            ...  # work
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._served = 0
        self._waiting: list[Place] = []

    def join(self, urgent: Callable[[], bool]) -> "Place":
        """A place for one more stream. urgent: asked while it waits, whenever there is room for one."""
        return Place(self, urgent)

    async def enter(self, place: "Place") -> None:
        self._waiting.append(place)
        place.called.clear()
        self._call()
        try:
            await place.called.wait()
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
            else:
                self.leave()
            raise

    def leave(self) -> None:
        self._free += 1
        self._call()

    def _call(self) -> None:
        while self._free and self._waiting:
            place = min(self._waiting, key=lambda waiting: (not waiting.urgent(), waiting.served))
            self._waiting.remove(place)
            self._free -= 1
            self._served += 1
            place.served = self._served
            place.called.set()


class Place:
    """A stream's place in the order; entered with `async with`, again and again, by one task.

    served: which in the scheduler's count was the last time that it was its turn; 0 before the first.
    """

    def __init__(self, scheduler: Scheduler, urgent: Callable[[], bool]) -> None:
        self.urgent = urgent
        self.served = 0
        self.called = asyncio.Event()
        self._scheduler = scheduler

    async def __aenter__(self) -> None:
        """Waits for the stream's turn."""
        await self._scheduler.enter(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scheduler.leave()
