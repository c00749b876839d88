"""Bounded hand-over from one device thread to one asynchronous reader."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """A queue of at most `size` items; made in the reader's event loop.

    The thread chooses what a full queue means: `put` waits for room, `push` drops the oldest item.
    After `close` the reader is gone: `put` and `push` return False, which tells the thread to stop.
    """

    def __init__(self, size: int, on_drop: Callable[[T], None] = lambda _: None) -> None:
        self._size = size
        self._on_drop = on_drop
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._changed = threading.Condition()
        self._items: deque[T] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False

    def put(self, item: T) -> bool:
        """Append `item` as soon as there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._size)
            return self._append(item)

    def push(self, item: T) -> bool:
        """Append `item` now; a full queue loses its oldest one to `on_drop`."""
        with self._changed:
            if len(self._items) == self._size:
                self._on_drop(self._items.popleft())
            return self._append(item)

    def end(self, error: BaseException | None = None) -> None:
        """No more items will come; the reader gets `error` after the last one."""
        with self._changed:
            self._ended = True
            self._error = error
            self._wake()

    def close(self) -> None:
        """Let go of the thread and of whatever it still hands over."""
        with self._changed:
            self._closed = self._ended = True
            self._items.clear()
            self._changed.notify_all()
        self._ready.set()

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            with self._changed:
                if self._items:
                    item = self._items.popleft()
                    self._changed.notify_all()
                elif self._error is not None:
                    raise self._error
                elif self._ended:
                    return
                else:
                    self._ready.clear()
                    item = None
            if item is None:
                await self._ready.wait()
            else:
                yield item

    def _append(self, item: T) -> bool:
        if not self._closed:
            self._items.append(item)
            self._wake()
        return not self._closed

    def _wake(self) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(self._ready.set)


def feed(items: Iterator[T], handover: Handover[T], name: str) -> threading.Thread:
    """Run a blocking iterator in a thread of its own until it ends or the reader is gone."""

    def run() -> None:
        try:
            for item in items:
                if not handover.put(item):
                    return
        except Exception as error:  # a fault of the iterator: the reader must not take it for the end
            handover.end(error)
        else:
            handover.end()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
