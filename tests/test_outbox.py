"""What waits for the broker: order, bounds, disk, and what a model of it says about any sequence of events."""

import asyncio
import json
import logging
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from brokers import until
from emotion_events import emotion_event
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamer.events import EmotionEvent, Heard
from streamer.mqtt import journal_writer
from streamer.mqtt import outbox as outbox_module
from streamer.mqtt.errors import OutboxError
from streamer.mqtt.journal import Entry, Journal
from streamer.mqtt.outbox import Bounds, Outbox

Result = TypeVar("Result")

ROOM = Bounds(events=1000, size=10_000_000, age_s=3600)


def provisional(number: int, revision: int, stream: str = "main") -> EmotionEvent:
    changes = {"revision": revision, "event_id": f"provisional-{number}-{revision}"}
    return emotion_event(number, phase="provisional", stream=stream).model_copy(update=changes)


async def take(outbox: Outbox, count: int) -> list[str]:
    """Deliver so many; their ids."""
    ids = []
    for _ in range(count):
        event = await outbox.first()
        assert event is not None
        outbox.delivered()
        ids.append(event.event_id)
    return ids


def numbers(which: Iterable[int]) -> list[str]:
    return [f"event-{number}" for number in which]


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "state" / "outbox.sqlite3" if request.param == "disk" else None


async def test_events_come_out_in_order_and_again_until_delivered(place: Path | None) -> None:
    async with Outbox(ROOM, place) as outbox:
        for number in range(5):
            outbox.put(emotion_event(number))
        assert await outbox.first() == await outbox.first() == emotion_event(0)
        assert await take(outbox, 5) == numbers(range(5))
        assert (len(outbox), outbox.dropped, outbox.sent_unsaved) == (0, 0, 0)
        assert outbox.storage == ("memory" if place is None else "disk")
        outbox.close()
        assert await outbox.first() is None


async def test_a_delivery_says_how_long_it_took_and_what_of_it_the_disk_did(place: Path | None) -> None:
    async with Outbox(ROOM, place) as outbox:
        before_s = time.monotonic()
        outbox.put(emotion_event(0))
        put_s = time.monotonic()
        await outbox.first()
        handed_out_s = time.monotonic()
        await asyncio.sleep(0.05)
        asked_s = time.monotonic()
        delivery = outbox.delivered()
        assert delivery is not None
        assert asked_s - put_s <= delivery.acknowledged_s <= time.monotonic() - before_s
        assert (delivery.saved_s is None) == (place is None)
        assert 0 <= (delivery.saved_s or 0) <= handed_out_s - before_s


async def test_while_others_are_waited_for_the_disk_goes_on(tmp_path: Path) -> None:
    """What an event waits for its turn is no time of the disk."""
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        began_s = time.monotonic()
        for number in range(3):
            outbox.put(emotion_event(number))
        await until(lambda: outbox.unsaved == 0)
        all_saved_s = time.monotonic() - began_s
        deliveries = []
        for _ in range(3):
            await outbox.first()
            await asyncio.sleep(0.05)
            deliveries.append(outbox.delivered())
    assert all(delivery is not None and 0 < (delivery.saved_s or 0) <= all_saved_s for delivery in deliveries)


async def test_of_events_of_an_earlier_program_nobody_knows_how_long_they_took(tmp_path: Path) -> None:
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        outbox.put(emotion_event(0))
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        outbox.put(emotion_event(1))
        await outbox.first()
        assert outbox.delivered() is None
        await outbox.first()
        assert outbox.delivered() is not None


async def test_what_was_not_delivered_comes_first_after_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        for number in range(4):
            outbox.put(emotion_event(number))
        await take(outbox, 2)
        await outbox.first()
    assert "2 undelivered event(s) stay in" in caplog.text
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        outbox.put(emotion_event(4))
        assert await take(outbox, 3) == numbers([2, 3, 4])
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        assert len(outbox) == 0


async def test_without_a_disk_the_end_of_the_program_drops_and_counts() -> None:
    async with Outbox(ROOM) as outbox:
        outbox.put(emotion_event(0))
        outbox.put(emotion_event(1))
        await outbox.first()
    assert (outbox.dropped, len(outbox)) == (2, 0)


async def test_the_oldest_gives_way_by_count_but_not_the_one_in_delivery(
    place: Path | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with Outbox(Bounds(3, 10_000_000, 3600), place) as outbox:
        outbox.put(emotion_event(0))
        await outbox.first()
        for number in range(1, 6):
            outbox.put(emotion_event(number))
        assert (len(outbox), outbox.dropped) == (4, 2)
        assert await take(outbox, 4) == numbers([0, 3, 4, 5])
    assert "dropped 1 undelivered event(s): more than 3 events or 10 MB wait" in caplog.text


async def test_the_oldest_gives_way_by_size(place: Path | None) -> None:
    size = len(emotion_event(0).to_json().encode())
    async with Outbox(Bounds(1000, 2 * size + 10, 3600), place) as outbox:
        for number in range(4):
            outbox.put(emotion_event(number))
        assert await take(outbox, 2) == numbers([2, 3])
        assert outbox.dropped == 2


async def test_an_event_larger_than_the_bound_is_dropped_itself(place: Path | None) -> None:
    async with Outbox(Bounds(1000, 100, 3600), place) as outbox:
        outbox.put(emotion_event(0))
        assert (len(outbox), outbox.dropped) == (0, 1)


async def test_what_waited_too_long_is_not_delivered_any_more(place: Path | None) -> None:
    async with Outbox(Bounds(1000, 10_000_000, 0.2), place) as outbox:
        outbox.put(emotion_event(0))
        await asyncio.sleep(0.3)
        outbox.put(emotion_event(1))
        assert await take(outbox, 1) == numbers([1])
        assert outbox.dropped == 1


async def test_age_counts_over_a_restart(tmp_path: Path) -> None:
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        outbox.put(emotion_event(0))
    await asyncio.sleep(0.2)
    async with Outbox(Bounds(1000, 10_000_000, 0.1), tmp_path / "outbox") as outbox:
        assert (len(outbox), outbox.dropped) == (0, 1)
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        assert len(outbox) == 0


async def test_the_newest_provisional_event_waits_until_its_final_one_comes() -> None:
    async with Outbox(ROOM) as outbox:
        outbox.put(provisional(1, 0))
        outbox.put(provisional(1, 1))
        outbox.put(provisional(7, 0, stream="other"))
        assert [event.event_id for event in (await outbox.first(), await outbox.first()) if event] == [
            "provisional-1-1",
            "provisional-7-0",
        ]
        outbox.put(provisional(2, 0))
        outbox.put(emotion_event(2))
        outbox.put(provisional(3, 0))
        assert await take(outbox, 2) == ["event-2", "provisional-3-0"]
        assert (outbox.superseded, outbox.dropped, len(outbox)) == (2, 0, 0)


async def test_a_provisional_event_does_not_touch_the_disk(tmp_path: Path) -> None:
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        outbox.put(provisional(1, 0))
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        outbox.close()
        assert await outbox.first() is None


async def test_waiting_ends_when_an_event_comes() -> None:
    async with Outbox(ROOM) as outbox:
        waiting = asyncio.create_task(outbox.first())
        await asyncio.sleep(0)
        outbox.put(emotion_event(0))
        assert await waiting == emotion_event(0)


async def test_given_up_it_hands_out_nothing_more(place: Path | None) -> None:
    async with Outbox(ROOM, place) as outbox:
        outbox.put(emotion_event(0))
        outbox.put(emotion_event(1))
        outbox.give_up()
        assert await outbox.first() is None


async def test_entries_of_another_version_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "outbox", "full")
    good = emotion_event(2).to_json().encode()
    other = json.dumps({"schema": "telme.emotion/0"}).encode()
    entries = [Entry(seq, time.time(), payload) for seq, payload in enumerate([other, good, b"\xff"], start=1)]
    journal.write(entries, [])
    journal.close()
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        assert outbox.dropped == 2
        assert await take(outbox, 1) == ["event-2"]
    assert "this version cannot read" in caplog.text
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        assert (len(outbox), outbox.dropped) == (0, 0)


async def test_a_second_outbox_on_the_same_file_is_refused(tmp_path: Path) -> None:
    async with Outbox(ROOM, tmp_path / "outbox") as first:
        with pytest.raises(OutboxError, match="in use by another telme-stream"):
            await Outbox(ROOM, tmp_path / "outbox").__aenter__()
        first.put(emotion_event(0))
        assert await take(first, 1) == numbers([0])
        assert first.sent_unsaved == 0


class FailingJournal(Journal):
    """A disk that can be told to refuse, or to take its time."""

    fails = False
    pause_s = 0.0

    def write(self, added: Iterable[Entry], removed: Iterable[int]) -> None:
        time.sleep(self.pause_s)
        if self.fails:
            raise sqlite3.OperationalError("disk I/O error")
        super().write(added, removed)


class CountedJournal(FailingJournal):
    """Remembers how many events it holds."""

    held = 0

    def write(self, added: Iterable[Entry], removed: Iterable[int]) -> None:
        super().write(added, removed)
        type(self).held = len(self.entries())


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> type[FailingJournal]:
    class Disk(FailingJournal):
        pass

    monkeypatch.setattr(outbox_module, "open_journal", Disk)
    monkeypatch.setattr(journal_writer, "SETTLE_S", 0.05)
    return Disk


async def test_a_disk_that_fails_holds_nothing_up_and_is_caught_up_with(
    disk: type[FailingJournal], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        outbox.put(emotion_event(0))
        await until(lambda: outbox.unsaved == 0)
        disk.fails = True
        for number in range(1, 5):
            outbox.put(emotion_event(number))
        assert await take(outbox, 3) == numbers([0, 1, 2])
        assert (outbox.storage, outbox.sent_unsaved, outbox.unsaved) == ("failing", 2, 2)
        disk.fails = False
        await until(lambda: outbox.storage == "disk" and outbox.unsaved == 0)
    assert caplog.text.count("cannot write the outbox") == 1
    assert "can be written again" in caplog.text
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        assert await take(outbox, 2) == numbers([3, 4])


async def test_what_a_failing_disk_does_not_keep_is_counted_at_the_end(
    disk: type[FailingJournal], tmp_path: Path
) -> None:
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        outbox.put(emotion_event(0))
        await until(lambda: outbox.unsaved == 0)
        disk.fails = True
        outbox.put(emotion_event(1))
    assert (len(outbox), outbox.dropped) == (1, 1)


async def test_a_disk_that_hangs_holds_an_event_up_for_a_second_only(
    disk: type[FailingJournal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_DISK_PATIENCE_S", 0.2)
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        disk.pause_s = 1.0
        outbox.put(emotion_event(0))
        assert await outbox.first() == emotion_event(0)
        delivery = outbox.delivered()
        assert delivery is not None
        assert delivery.saved_s is None
        assert outbox.sent_unsaved == 1
        disk.pause_s = 0.0


async def test_a_disk_that_hangs_lets_nothing_pile_up(disk: type[FailingJournal], tmp_path: Path) -> None:
    async with Outbox(Bounds(10, 10_000_000, 3600), tmp_path / "outbox") as outbox:
        disk.pause_s = 0.5
        for number in range(500):
            outbox.put(emotion_event(number))
        assert outbox._writer is not None
        # The batch in the writer's hands, and what waits.
        assert len(outbox._writer._added) + len(outbox._writer._removed) <= 2 * (10 + 1)
        disk.pause_s = 0.0
        assert await take(outbox, 10) == numbers(range(490, 500))


class Shut:
    """A disk on which no outbox can be opened yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = outbox_module.open_journal
        self._patch = monkeypatch
        monkeypatch.setattr(outbox_module, "open_journal", self._refuse)
        monkeypatch.setattr(outbox_module, "_REOPEN_S", 0.01)

    @staticmethod
    def _refuse(path: Path, synchronous: str) -> Journal:
        raise sqlite3.OperationalError("database or disk is full")

    def recover(self) -> None:
        self._patch.setattr(outbox_module, "open_journal", self._open)


async def test_a_disk_that_fails_at_the_start_and_stays_so_leaves_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Shut(monkeypatch)
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        outbox.put(emotion_event(0))
        outbox.put(emotion_event(1))
        assert await take(outbox, 1) == numbers([0])
        await asyncio.sleep(0.1)
        assert (outbox.storage, outbox.sent_unsaved, outbox.unsaved) == ("failing", 1, 1)
    assert (outbox.dropped, len(outbox)) == (1, 0)
    assert caplog.text.count("cannot write the outbox") == 1


async def test_a_disk_that_fails_at_the_start_is_caught_up_with_once_it_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Outbox(ROOM, tmp_path / "outbox") as earlier:
        for number in range(3):
            earlier.put(emotion_event(number))
    shut = Shut(monkeypatch)
    async with Outbox(ROOM, tmp_path / "outbox") as outbox:
        for number in range(3, 7):
            outbox.put(emotion_event(number))
        assert await take(outbox, 1) == numbers([3])
        assert await outbox.first() == emotion_event(4)
        shut.recover()
        await until(lambda: outbox.storage == "disk" and outbox.unsaved == 0)
        assert await outbox.first() == emotion_event(4)
        assert not outbox.overtaken
        outbox.delivered()
        assert await outbox.first() == emotion_event(0)
        assert outbox.overtaken
        assert await take(outbox, 4) == numbers([0, 1, 2, 5])
        assert await outbox.first() == emotion_event(6)
        assert not outbox.overtaken
        outbox.put(emotion_event(7))
    assert (outbox.dropped, outbox.sent_unsaved) == (0, 2)
    assert "can be written again" in caplog.text
    async with Outbox(ROOM, tmp_path / "outbox") as later:
        assert len(later) == 2
        assert await take(later, 2) == numbers([6, 7])


async def test_what_is_found_late_counts_for_the_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Outbox(ROOM, tmp_path / "outbox") as earlier:
        for number in range(3):
            earlier.put(emotion_event(number))
    shut = Shut(monkeypatch)
    async with Outbox(Bounds(4, 10_000_000, 3600), tmp_path / "outbox") as outbox:
        for number in range(3, 6):
            outbox.put(emotion_event(number))
        shut.recover()
        await until(lambda: outbox.storage == "disk" and outbox.unsaved == 0)
        assert (len(outbox), outbox.dropped) == (4, 2)
        assert await take(outbox, 4) == numbers([2, 3, 4, 5])


# Any sequence of events, against a model.


@dataclass
class Clock:
    """Stands in for the module `time`: both clocks, moved by hand."""

    now: float = 1_000_000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


@dataclass(frozen=True)
class Known:
    id: str
    size: int
    since: float


@dataclass
class Model:
    """What an outbox is meant to be. disk: what a kill would leave."""

    bounds: Bounds
    waiting: list[Known] = field(default_factory=list)
    in_delivery: Known | None = None
    disk: list[Known] = field(default_factory=list)
    dropped: int = 0

    def trim(self, now: float, *, by_age: bool) -> None:
        def too_much() -> bool:
            return (
                len(self.waiting) > self.bounds.events
                or sum(known.size for known in self.waiting) > self.bounds.size
                or (by_age and self.waiting[0].since < now - self.bounds.age_s)
            )

        while self.waiting and too_much():
            del self.waiting[0]
            self.dropped += 1

    @property
    def all(self) -> list[Known]:
        return [*([self.in_delivery] if self.in_delivery else []), *self.waiting]


BOUNDS = Bounds(events=4, size=6_000, age_s=100.0)


class OutboxMachine(RuleBasedStateMachine):
    """Puts, deliveries, clean restarts, kills, disk failures and time, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.disk = type("Disk", (CountedJournal,), {})
        self.clock = Clock()
        self.patches.setattr(outbox_module, "open_journal", self.disk)
        self.patches.setattr(outbox_module, "time", self.clock)
        self.patches.setattr(journal_writer, "SETTLE_S", 0.01)
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.generation = 0
        self.number = 0
        self.model = Model(BOUNDS)

    @initialize()
    def open(self) -> None:
        self.path = self.folder / f"outbox-{self.generation}"
        self.outbox = Outbox(BOUNDS, self.path, "normal")
        self.disk.held = len(self.model.disk)  # before the writer's thread begins, which may drop some of them
        self.run(self.outbox.__aenter__())
        self.model = Model(BOUNDS, waiting=list(self.model.disk), disk=[])
        self.model.trim(self.clock.now, by_age=True)
        self.catch_up()

    @rule(length=st.integers(0, 3000))
    def put(self, length: int) -> None:
        event = emotion_event(self.number)
        event = event.model_copy(update={"transcript": Heard(text="x" * length, confidence=1, language="en")})
        self.number += 1
        self.outbox.put(event)
        self.model.waiting.append(Known(event.event_id, len(event.to_json().encode()), self.clock.now))
        self.model.trim(self.clock.now, by_age=False)
        self.catch_up()

    @rule()
    def first(self) -> None:
        if self.model.in_delivery is None:
            self.model.trim(self.clock.now, by_age=True)
            if not self.model.waiting:  # outdated events are dropped on the way to waiting for new ones
                with suppress(TimeoutError):
                    self.run(asyncio.wait_for(self.outbox.first(), 0.02))
                self.catch_up()
                return
            self.model.in_delivery = self.model.waiting.pop(0)
        event = self.run(self.outbox.first())
        assert event is not None
        assert event.event_id == self.model.in_delivery.id
        self.catch_up()

    @rule()
    def delivered(self) -> None:
        self.outbox.delivered()
        self.model.in_delivery = None
        self.catch_up()

    @precondition(lambda self: not self.disk.fails)
    @rule()
    def disk_fails(self) -> None:
        self.disk.fails = True

    @precondition(lambda self: self.disk.fails)
    @rule()
    def disk_recovers(self) -> None:
        self.disk.fails = False
        self.catch_up()

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def restart(self) -> None:
        expected_drops = self.model.dropped + len(self.model.all) - len(self.kept_at_the_end())
        self.model.disk = self.kept_at_the_end() if self.disk.fails is False else self.model.disk
        self.run(self.outbox.__aexit__(None, None, None))
        assert self.outbox.dropped == expected_drops
        self.disk.fails = False
        self.open()

    @rule()
    def kill(self) -> None:
        """A copy of the files at rest is what the next program finds after a kill."""
        old = self.path
        self.generation += 1
        self.eventually(lambda: self.copied(old) == [known.id for known in self.model.disk])
        self.disk.fails = False
        self.run(self.outbox.__aexit__(None, None, None))
        self.open()

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "outbox"):
            assert len(self.outbox) == len(self.model.all)
            assert self.outbox.dropped == self.model.dropped

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.run(self.outbox.__aexit__(None, None, None))
        self.loop.close()
        self.patches.undo()
        shutil.rmtree(self.folder)

    def kept_at_the_end(self) -> list[Known]:
        on_disk = set(self.model.disk) if self.disk.fails else set(self.model.all)
        return [known for known in self.model.all if known in on_disk]

    def catch_up(self) -> None:
        """Wait for the disk, or for its failure."""
        if self.disk.fails:
            return
        self.eventually(lambda: self.outbox.unsaved == 0 and self.disk.held == len(self.model.all))
        self.model.disk = self.model.all

    def copied(self, old: Path) -> list[str]:
        """What lies on disk. A copy of files that are being written can be anything: try again."""
        new = self.folder / f"outbox-{self.generation}"
        for file in self.folder.glob(f"{new.name}*"):
            file.unlink()
        for file in self.folder.glob(f"{old.name}*"):
            shutil.copy(file, self.folder / file.name.replace(old.name, new.name))
        with closing(Journal(new, "normal")) as journal:
            return [EmotionEvent.from_json(entry.payload).event_id for entry in journal.entries()]

    def eventually(self, condition: Callable[[], bool]) -> None:
        self.run(until(condition))

    def run(self, awaitable: Awaitable[Result]) -> Result:
        return self.loop.run_until_complete(awaitable)


TestAnySequence = OutboxMachine.TestCase
TestAnySequence.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
