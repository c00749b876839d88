"""Turns between streams: fair, urgent work first, never more at once than there is room for."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.scheduler import Place, Scheduler

# Of each stream, its pieces of work: (ticks of the loop before it is there, whether it is urgent, ticks it takes).
works = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 4)), max_size=12)
patterns = st.lists(works, min_size=1, max_size=6)


@dataclass(frozen=True)
class Turn:
    """waited_since: how many turns of all streams had been given when the wait began. number: which of them it was."""

    stream: int
    urgent: bool
    waited_since: int
    number: int


class Day:
    """Streams that work as a pattern says, and their turns."""

    def __init__(self, at_once: int) -> None:
        self.turns: list[Turn] = []
        self.most = 0
        self._working = 0
        self._places: list[Place] = []
        self._scheduler = Scheduler(at_once)

    async def live(self, stream: int, pattern: list[tuple[int, bool, int]]) -> None:
        hurry = False
        place = self._scheduler.join(lambda: hurry)
        self._places.append(place)
        for wait, urgent, take in pattern:
            await ticks(wait)
            hurry = urgent
            given = max(place.served for place in self._places)
            async with place:
                self.turns.append(Turn(stream, urgent, given, place.served))
                self._working += 1
                self.most = max(self.most, self._working)
                await ticks(take)
                self._working -= 1

    async def run(self, streams: list[list[tuple[int, bool, int]]]) -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for stream, pattern in enumerate(streams):
                tasks.create_task(self.live(stream, pattern))


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@given(at_once=st.integers(1, 4), streams=patterns)
def test_no_stream_waits_for_more_than_one_turn_of_each_other_one(
    at_once: int, streams: list[list[tuple[int, bool, int]]]
) -> None:
    day = Day(at_once)
    asyncio.run(day.run(streams))
    assert day.most <= at_once
    assert len(day.turns) == sum(map(len, streams))
    for mine in day.turns:
        before = [turn for turn in day.turns if mine.waited_since < turn.number < mine.number]
        for stream in range(len(streams)):
            others = [turn for turn in before if turn.stream == stream]
            assert len([turn for turn in others if mine.urgent or not turn.urgent]) <= 1
        if mine.urgent:
            assert all(turn.urgent for turn in before)


async def order(places: dict[str, tuple[bool, int]]) -> str:
    """Who is served in which order, of places that (urgent, turns before) wait while one other works."""
    scheduler = Scheduler(1)
    busy = scheduler.join(lambda: True)
    served: list[str] = []
    joined = {name: scheduler.join(lambda urgent=urgent: urgent) for name, (urgent, _) in places.items()}
    for turn in range(max(turns for _, turns in places.values())):
        for name, (_, turns) in places.items():
            if turn < turns:
                async with joined[name]:
                    pass

    async def wait(name: str) -> None:
        async with joined[name]:
            served.append(name)

    async with asyncio.TaskGroup() as tasks, busy:
        for name in places:
            tasks.create_task(wait(name))
        await ticks(2)
    return "".join(served)


async def test_urgent_work_goes_first_and_then_who_was_served_longest_ago() -> None:
    assert await order({"a": (False, 0), "b": (True, 0), "c": (False, 0), "d": (True, 0)}) == "bdac"
    assert await order({"a": (True, 2), "b": (True, 1), "c": (True, 3)}) == "bac"


async def test_work_that_becomes_urgent_while_it_waits_goes_first() -> None:
    scheduler = Scheduler(1)
    urgent = {"a": False, "b": False}
    served: list[str] = []

    async def wait(name: str) -> None:
        async with scheduler.join(lambda: urgent[name]):
            served.append(name)

    async with asyncio.TaskGroup() as tasks, scheduler.join(lambda: True):
        for name in urgent:
            tasks.create_task(wait(name))
        await ticks(2)
        urgent["b"] = True
    assert served == ["b", "a"]


@pytest.mark.parametrize("called", [False, True])
async def test_who_gives_up_leaves_no_gap(called: bool) -> None:
    scheduler = Scheduler(1)
    first, second, third = (scheduler.join(lambda: True) for _ in range(3))

    async def work(seconds: float) -> None:
        async with second:
            await asyncio.sleep(seconds)

    await first.__aenter__()
    giving_up = asyncio.create_task(work(0))
    await ticks(2)
    if called:
        await first.__aexit__(None, None, None)
        giving_up.cancel()  # it has been called, but has not run since
    else:
        giving_up.cancel()
        await first.__aexit__(None, None, None)
    async with asyncio.timeout(10), third:
        pass
    with pytest.raises(asyncio.CancelledError):
        await giving_up


async def test_an_error_in_the_work_ends_the_turn() -> None:
    scheduler = Scheduler(1)
    place = scheduler.join(lambda: True)
    with pytest.raises(RuntimeError):
        async with place:
            raise RuntimeError
    async with asyncio.timeout(10), place:
        pass
