"""The hand-over to recognition: bounded, in order, and honest about what it drops."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from streamer.backlog import Backlog


async def fill(backlog: Backlog[int], count: int) -> list[int]:
    """Put 0, 1, … and return what was dropped."""
    dropped = [await backlog.put(item) for item in range(count)]
    return [item for item in dropped if item is not None]


async def drain(backlog: Backlog[int]) -> list[int]:
    await backlog.close()
    items = []
    while (item := await backlog.get()) is not None:
        items.append(item)
    return items


@given(size=st.integers(1, 10), count=st.integers(0, 40))
def test_a_live_producer_never_waits_and_every_item_is_kept_or_counted(size: int, count: int) -> None:
    async def scenario() -> None:
        backlog: Backlog[int] = Backlog(size, drop_oldest=True)
        dropped = await fill(backlog, count)
        assert len(backlog) <= size
        assert backlog.dropped == len(dropped)
        assert dropped + await drain(backlog) == list(range(count))

    asyncio.run(scenario())


@given(size=st.integers(1, 10), count=st.integers(0, 40))
def test_without_dropping_the_producer_waits_and_nothing_is_lost(size: int, count: int) -> None:
    async def scenario() -> None:
        backlog: Backlog[int] = Backlog(size, drop_oldest=False)

        async def produce() -> None:
            await fill(backlog, count)
            await backlog.close()

        producing = asyncio.create_task(produce())
        await asyncio.sleep(0)
        received = []
        while (item := await backlog.get()) is not None:
            received.append(item)
            assert len(backlog) <= size
        await producing
        assert received == list(range(count))
        assert backlog.dropped == 0

    asyncio.run(scenario())


async def test_the_consumer_wakes_when_the_backlog_closes() -> None:
    backlog: Backlog[int] = Backlog(1, drop_oldest=True)
    waiting = asyncio.create_task(backlog.get())
    await asyncio.sleep(0)
    await backlog.close()
    assert await asyncio.wait_for(waiting, 1) is None
