"""A thread that writes, so that a slow terminal or pipe holds nobody up."""

import logging
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")


class BackgroundWriter(Generic[Item]):
    """Hands items to `write`, one after the other, in a thread that runs while `with` lasts.

    write: may block; an OSError that it raises is logged, kept in `error`, and ends the thread.
    name: what is written to, for logs.
    size: items that may wait; further ones are dropped and counted.
    last_s: longest time that leaving waits for what is left.
    """

    def __init__(self, write: Callable[[Item], None], *, name: str, size: int, last_s: float) -> None:
        self.dropped = 0
        self.error: OSError | None = None
        self._write = write
        self._last_s = last_s
        self._waiting: queue.Queue[Item | None] = queue.Queue(size)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._waiting.put(None, timeout=self._last_s)
        except queue.Full:
            return
        self._thread.join(self._last_s)

    @property
    def missed(self) -> int:
        """Items that were not written: dropped, or still waiting."""
        return self.dropped + self._waiting.qsize()

    def put(self, item: Item) -> None:
        """Returns at once."""
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self.dropped += 1

    def _run(self) -> None:
        try:
            while (item := self._waiting.get()) is not None:
                self._write(item)
        except OSError as error:
            log.warning("%s can no longer be written to: %s", self._thread.name, error.strerror)
            self.error = error
