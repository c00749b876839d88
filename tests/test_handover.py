"""The hand-over from a thread to the event loop."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from streamer.sources.handover import Handover, feed


async def test_everything_arrives_in_order_and_the_thread_waits_for_the_reader() -> None:
    handover: Handover[int] = Handover(4)
    made = 0

    def numbers() -> Iterator[int]:
        nonlocal made
        for number in range(5000):
            made = number
            yield number

    thread = feed(numbers(), handover, "numbers")
    got = []
    async for number in handover:
        got.append(number)
        assert made - number <= 5, "four wait, one is being handed over"
        if number % 1000 == 0:
            await asyncio.sleep(0.01)
    assert got == list(range(5000))
    thread.join(5)
    assert not thread.is_alive()


async def test_a_full_queue_loses_its_oldest_item_and_tells() -> None:
    lost: list[int] = []
    handover: Handover[int] = Handover(3, lost.append)
    for number in range(10):
        assert handover.push(number)
    handover.end()
    assert [number async for number in handover] == [7, 8, 9]
    assert lost == [0, 1, 2, 3, 4, 5, 6]


async def test_a_reader_that_goes_frees_the_thread() -> None:
    handover: Handover[int] = Handover(1)
    thread = feed(iter(range(100)), handover, "numbers")
    reader = aiter(handover)
    assert await anext(reader) == 0
    handover.close()
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()
    assert not handover.push(1)
    assert [number async for number in reader] == []


async def test_a_fault_in_the_thread_reaches_the_reader_after_what_came_before() -> None:
    def faulty() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    handover: Handover[int] = Handover(2)
    feed(faulty(), handover, "faulty")
    reader = aiter(handover)
    assert await anext(reader) == 1
    with pytest.raises(ZeroDivisionError):
        await anext(reader)


async def test_a_reader_that_waits_is_woken() -> None:
    handover: Handover[str] = Handover(1)
    waiting = asyncio.create_task(anext(aiter(handover)))
    await asyncio.sleep(0.01)
    threading.Thread(target=handover.push, args=("news",)).start()
    assert await asyncio.wait_for(waiting, 5) == "news"
