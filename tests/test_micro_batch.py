"""What waits for a model at the same moment goes through it together, and fares as it would alone."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.micro_batch import MicroBatch


class Halves:
    """A model that halves even numbers, writes down how many it gets at once, and waits to be let go."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()

    def one(self, number: int) -> int:
        return self._halve([number])[0]

    def many(self, numbers: Sequence[int]) -> list[int]:
        return self._halve(numbers)

    def _halve(self, numbers: Sequence[int]) -> list[int]:
        self.go.wait(10)
        self.sizes.append(len(numbers))
        if any(number % 2 for number in numbers):
            raise ValueError("odd")
        return [number // 2 for number in numbers]


@given(numbers=st.lists(st.integers(), min_size=1, max_size=20), size_max=st.integers(1, 5))
def test_everybody_gets_their_own_result_or_error(numbers: list[int], size_max: int) -> None:
    async def scenario() -> None:
        model = Halves()
        with ThreadPoolExecutor(1) as worker:
            halve = MicroBatch(model.one, model.many, worker, size_max)
            asked = [asyncio.create_task(halve(number)) for number in numbers]
            await asyncio.sleep(0)
            model.go.set()
            results = await asyncio.gather(*asked, return_exceptions=True)
        for number, result in zip(numbers, results, strict=True):
            if number % 2:
                assert isinstance(result, ValueError)
            else:
                assert result == number // 2
        assert max(model.sizes) <= size_max

    asyncio.run(scenario())


async def test_what_waits_while_the_model_is_busy_goes_together() -> None:
    model = Halves()
    with ThreadPoolExecutor(1) as worker:
        worker.submit(model.go.wait, 10)
        halve = MicroBatch(model.one, model.many, worker, 4)
        asked = [asyncio.create_task(halve(2 * number)) for number in range(6)]
        await asyncio.sleep(0)
        model.go.set()
        assert await asyncio.gather(*asked) == list(range(6))
    assert model.sizes == [4, 2]


async def test_who_gives_up_is_left_out() -> None:
    model = Halves()
    with ThreadPoolExecutor(1) as worker:
        worker.submit(model.go.wait, 10)
        halve = MicroBatch(model.one, model.many, worker, 4)
        asked = [asyncio.create_task(halve(2 * number)) for number in range(3)]
        await asyncio.sleep(0)
        asked[1].cancel()
        await asyncio.sleep(0)
        model.go.set()
        results = await asyncio.gather(*asked, return_exceptions=True)
    assert (results[0], results[2]) == (0, 2)
    assert isinstance(results[1], asyncio.CancelledError)
    assert model.sizes == [2]


async def test_functions_that_share_a_worker_take_turns() -> None:
    order: list[str] = []
    go = threading.Event()

    def noting(name: str) -> MicroBatch[int, None]:
        return MicroBatch(lambda _: order.append(name), lambda items: [order.append(name)] * len(items), worker, 1)

    with ThreadPoolExecutor(1) as worker:
        worker.submit(go.wait, 10)
        a, b = noting("a"), noting("b")
        asked = [asyncio.create_task(stage(0)) for stage in (a, b, a)]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*asked)
    assert order == ["a", "b", "a"]


async def test_an_error_of_one_alone_is_its_own() -> None:
    model = Halves()
    model.go.set()
    with ThreadPoolExecutor(1) as worker:
        halve = MicroBatch(model.one, model.many, worker, 4)
        with pytest.raises(ValueError, match="odd"):
            await halve(3)
        assert await halve(4) == 2
