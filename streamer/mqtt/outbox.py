"""Events that wait for the broker."""

import asyncio
import logging
from collections import deque

from streamer.events import EmotionEvent

log = logging.getLogger(__name__)


class Outbox:
    """Holds events in memory, in order, until they are delivered: at most `size`, the oldest gives way.

    For one event loop. An event handed out by `first` is in delivery and gives way no more.
    """

    def __init__(self, size: int) -> None:
        self.dropped = 0
        self._size = size
        self._waiting: deque[EmotionEvent] = deque()
        self._in_delivery: EmotionEvent | None = None
        self._closed = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + (self._in_delivery is not None)

    def put(self, event: EmotionEvent) -> None:
        if len(self._waiting) >= self._size:
            self._drop(1, f"more than {self._size} events wait for the broker")
        self._waiting.append(event)
        self._changed.set()

    async def first(self) -> EmotionEvent | None:
        """The oldest event, the same one until it is `delivered`; None once the outbox is closed and empty."""
        while self._in_delivery is None:
            if self._waiting:
                self._in_delivery = self._waiting.popleft()
            elif self._closed:
                return None
            else:
                self._changed.clear()
                await self._changed.wait()
        return self._in_delivery

    def delivered(self) -> None:
        self._in_delivery = None

    def close(self) -> None:
        """No event comes any more."""
        self._closed = True
        self._changed.set()

    def give_up(self) -> None:
        """Drop, count and log all that is not in delivery."""
        if self._waiting:
            self._drop(len(self._waiting), "the program stops")

    def give_up_delivery(self) -> None:
        """Drop, count and log the event in delivery too: whether the broker has it is not known."""
        if self._in_delivery is not None:
            self._waiting.appendleft(self._in_delivery)
            self._in_delivery = None
            self.give_up()

    def _drop(self, count: int, reason: str) -> None:
        for _ in range(count):
            self._waiting.popleft()
        self.dropped += count
        log.warning("dropped %d undelivered event(s): %s", count, reason)
