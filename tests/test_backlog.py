"""The hand-over to recognition: bounded, in order, and honest about what gives way."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.backlog import Backlog, Cut
from streamer.utterance import EndReason, Unfinished, Utterance


def cut(number: int, *, over: bool = True) -> Cut:
    reason = EndReason.SILENCE if over else Unfinished.PAUSE
    return Cut(Utterance(number, 0, 1, 2, 0, np.zeros(1, np.float32), reason), at=0.0, began_at=datetime.now(UTC))


async def fill(backlog: Backlog, cuts: list[Cut]) -> list[Cut]:
    """Put all and return what gave way."""
    return [dropped for one in cuts for dropped in await backlog.put(one)]


async def drain(backlog: Backlog) -> list[Cut]:
    await backlog.close()
    return [cut async for cut in taken(backlog)]


async def taken(backlog: Backlog) -> AsyncIterator[Cut]:
    """What a consumer takes, until the end."""
    while await backlog.filled():
        first = backlog.first
        assert await backlog.take() is first
        yield first


# Each utterance with the number of drafts before it.
utterances = st.lists(st.integers(0, 3), max_size=40).map(
    lambda drafts: [
        one
        for number, count in enumerate(drafts)
        for one in [*(cut(number, over=False) for _ in range(count)), cut(number)]
    ]
)


@given(size=st.integers(1, 10), cuts=utterances, trailing=st.booleans())
def test_a_live_producer_never_waits_and_everything_is_kept_or_returned(
    size: int, cuts: list[Cut], trailing: bool
) -> None:
    async def scenario() -> None:
        cuts.extend([cut(99, over=False)] * trailing)
        backlog = Backlog(size, drop_oldest=True)
        dropped = await fill(backlog, cuts)
        assert len(backlog) <= size + 1
        kept = await drain(backlog)
        over = [one for one in cuts if one.utterance.over]
        assert [one for one in dropped if one.utterance.over] + kept == over + [one for one in kept if one not in over]
        # Drafts go first: one is left only where nothing came after it.
        assert [one for one in kept if not one.utterance.over] == cuts[-1:] * trailing
        assert len(dropped) + len(kept) == len(cuts)

    asyncio.run(scenario())


@given(size=st.integers(1, 10), cuts=utterances)
def test_without_dropping_the_producer_waits_and_no_utterance_is_lost(size: int, cuts: list[Cut]) -> None:
    async def scenario() -> None:
        backlog = Backlog(size, drop_oldest=False)

        async def produce() -> list[Cut]:
            dropped = await fill(backlog, cuts)
            await backlog.close()
            return dropped

        producing = asyncio.create_task(produce())
        await asyncio.sleep(0)
        received = []
        async for one in taken(backlog):
            received.append(one)
            assert len(backlog) <= size + 1
        assert not any(one.utterance.over for one in await producing)
        assert [one for one in received if one.utterance.over] == [one for one in cuts if one.utterance.over]

    asyncio.run(scenario())


async def test_utterances_come_before_a_draft() -> None:
    backlog = Backlog(3, drop_oldest=True)
    await fill(backlog, [cut(1), cut(2), cut(3, over=False)])
    assert [one.utterance.number for one in await drain(backlog)] == [1, 2, 3]


async def test_an_utterance_whose_draft_is_being_worked_on_does_not_give_way() -> None:
    backlog = Backlog(1, drop_oldest=True)
    await backlog.put(cut(1, over=False))
    await backlog.take()
    dropped = await fill(backlog, [cut(1), cut(2), cut(3)])
    assert [one.utterance.number for one in dropped] == [2]
    assert backlog.has_utterance(1)
    assert [one.utterance.number for one in await drain(backlog)] == [1, 3]


async def test_the_consumer_wakes_when_the_backlog_closes() -> None:
    backlog = Backlog(1, drop_oldest=True)
    waiting = asyncio.create_task(backlog.filled())
    await asyncio.sleep(0)
    await backlog.close()
    assert await asyncio.wait_for(waiting, 1) is False
