"""One function of a model for several streams at once."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class MicroBatch(Generic[Item, Result]):
    """Calls a function in a worker's thread; the items that wait when their turn comes go through it together.

    Nobody waits for company: an item that meets an idle worker goes alone and at once.

    one, many: the function for one item, and for several with a result for each.
    worker: of one thread, in which functions of other batches may run, too: each takes its turn.
    size_max: items that go through together.
    """

    def __init__(
        self,
        one: Callable[[Item], Result],
        many: Callable[[Sequence[Item]], Sequence[Result]],
        worker: ThreadPoolExecutor,
        size_max: int,
    ) -> None:
        self._one = one
        self._many = many
        self._worker = worker
        self._size_max = size_max
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()

    async def __call__(self, item: Item) -> Result:
        """What the function returns, or raises, for this item."""
        future: Future[Result] = Future()
        self._waiting.append((item, future))
        # One call for each item: those whose items went along with an earlier one find nothing left to do.
        self._worker.submit(self._run)
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        """In the worker's thread, the only one that takes items away."""
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._size_max))]
        batch = [(item, future) for item, future in taken if future.set_running_or_notify_cancel()]
        if len(batch) > 1:
            try:
                results = self._many([item for item, _ in batch])
            except Exception:
                log.debug("a batch failed; its items go alone", exc_info=True)
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    future.set_result(result)
                return
        for item, future in batch:
            self._alone(item, future)

    def _alone(self, item: Item, future: "Future[Result]") -> None:
        try:
            future.set_result(self._one(item))
        except Exception as error:
            future.set_exception(error)
