"""The bounded hand-over from segmentation to recognition."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Backlog(Generic[Item]):
    """A queue of at most `size` items between one producer and one consumer, closed by the producer.

    With `drop_oldest` a full backlog gives up its oldest item, so that a live producer never waits;
    without it the producer waits, so that nothing of a file is lost.
    """

    def __init__(self, size: int, *, drop_oldest: bool) -> None:
        self.dropped = 0
        self._items: deque[Item] = deque()
        self._size = size
        self._drop_oldest = drop_oldest
        self._closed = False
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        return len(self._items)

    async def put(self, item: Item) -> Item | None:
        """Append an item; returns the one dropped for it, if any."""
        async with self._changed:
            dropped = None
            if self._drop_oldest and len(self._items) >= self._size:
                dropped = self._items.popleft()
                self.dropped += 1
            await self._changed.wait_for(lambda: len(self._items) < self._size)
            self._items.append(item)
            self._changed.notify_all()
            return dropped

    async def close(self) -> None:
        """No item comes any more; the consumer still gets those that wait."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def get(self) -> Item | None:
        """The oldest item, or None once the backlog is closed and empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._items) or self._closed)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item
