"""Events that wait for the broker."""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import ValidationError

from streamer.events import EmotionEvent
from streamer.mqtt.errors import OutboxError
from streamer.mqtt.journal import Entry, Journal, Synchronous, open_journal
from streamer.mqtt.journal_writer import JournalWriter

_DISK_PATIENCE_S = 1.0  # a disk that takes longer does not hold an event up
_CLOSE_S = 5.0
_REOPEN_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """Of final events that wait, apart from the one in delivery. size: bytes of their JSON."""

    events: int
    size: int
    age_s: float


@dataclass(frozen=True)
class Delivery:
    """Seconds from the moment at which a final event came.

    saved_s: until it was on disk; None where it went out before it was, or was to stay in memory.
    acknowledged_s: until the broker had it, outages included.
    """

    saved_s: float | None
    acknowledged_s: float


@dataclass
class _Waiting:
    """payload: the event as JSON, which takes a fraction of the object's memory.

    since: on the monotonic clock, which no correction of the wall clock makes jump.
    inherited: whether an earlier program accepted it; then only the wall clock could tell `since`.
    saved_at: on the same clock; None until it is on disk, and where it is inherited.
    """

    seq: int
    payload: bytes
    since: float
    inherited: bool = False
    saved_at: float | None = None

    def entry(self) -> Entry:
        return Entry(self.seq, time.time() - (time.monotonic() - self.since), self.payload)


class Outbox:
    """Holds final events, in order, until they are delivered; with a `path` also on disk, over the end of the program.

        async with Outbox(bounds, path) as outbox:
            outbox.put(event)
            event = await outbox.first()
            outbox.delivered()

    An event is handed out when it is on disk; a disk that fails or takes more than a second holds nothing up, it is
    told of, counted, and tried again, at the start, too. What an earlier program left is then found late, and handed
    out next. When a bound is reached the oldest event gives way, counted and logged.
    Of provisional events the newest of each stream waits, in memory, while no final event does and none of its own
    utterance comes.

    For one event loop. An event handed out by `first` is in delivery and gives way no more.
    """

    def __init__(self, bounds: Bounds, path: Path | None = None, synchronous: Synchronous = "full") -> None:
        self.dropped = 0
        self.sent_unsaved = 0  # final events handed out before they were on disk
        self.superseded = 0  # provisional events that were never handed out
        self._bounds = bounds
        self._path = path
        self._synchronous = synchronous
        self._writer: JournalWriter | None = None
        self._opening: asyncio.Task[None] | None = None  # where the disk failed at the start
        self._disk_fails = False
        self._saved = 0  # the highest `seq` on disk
        self._last = 0  # the highest `seq` there is
        self._found_late = 0  # the highest `seq` of what was found when there had been events already
        self._waiting: deque[_Waiting] = deque()
        self._size = 0
        self._in_delivery: _Waiting | None = None
        self._provisional: dict[str, EmotionEvent] = {}  # by stream
        self._closed = False
        self._given_up = False
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Takes up what an earlier program left. Raises OutboxError when the file cannot be used."""
        if self._path is None:
            return self
        try:
            await self._open(self._path)
        except (sqlite3.Error, OSError) as error:
            self._failed(str(error))
            self._opening = asyncio.create_task(self._open_later(self._path), name="outbox")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """What was not delivered stays on disk; what is not there is dropped, counted and logged."""
        self.superseded += len(self._provisional)
        self._provisional.clear()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close, _CLOSE_S)
        if self._in_delivery is not None:
            self._waiting.appendleft(self._in_delivery)
            self._in_delivery = None
        left = len(self._waiting)
        self._waiting = deque(waiting for waiting in self._waiting if waiting.seq <= self._saved)
        if self._waiting:
            log.info("%d undelivered event(s) stay in %s for the next start", len(self._waiting), self._path)
        if lost := left - len(self._waiting):
            self._count_dropped(lost, "the program stops")

    def __len__(self) -> int:
        """Final events that are not delivered."""
        return len(self._waiting) + (self._in_delivery is not None)

    @property
    def unsaved(self) -> int:
        """How many of these are not on disk, though they should be."""
        return 0 if self._path is None else min(len(self), self._last - self._saved)

    @property
    def storage(self) -> Literal["disk", "memory", "failing"]:
        """Where events wait; `failing` is a disk that should keep them and does not."""
        if self._disk_fails:
            return "failing"
        return "memory" if self._writer is None else "disk"

    @property
    def overtaken(self) -> bool:
        """Whether the final event in delivery is of an earlier program, and was found when this one had its own."""
        return self._in_delivery is not None and self._in_delivery.seq <= self._found_late

    def put(self, event: EmotionEvent) -> None:
        """Never waits."""
        before = self._provisional.get(event.stream)
        if before is not None and (event.phase == "provisional" or event.utterance == before.utterance):
            del self._provisional[event.stream]
            self.superseded += 1
        if event.phase == "provisional":
            self._provisional[event.stream] = event
        else:
            self._put_final(event)
        self._changed.set()

    async def first(self) -> EmotionEvent | None:
        """The oldest final event, the same one until it is `delivered`; if none waits, a provisional one, just once.

        None once the outbox is closed and empty, or given up.
        """
        while self._in_delivery is None:
            self._drop_outdated()
            wait_s: float | None = None
            if self._given_up:
                return None
            if self._waiting:
                wait_s = self._disk_wait_s(self._waiting[0])
                if wait_s <= 0:
                    self._begin_delivery()
                    continue
            elif self._provisional:
                return self._provisional.pop(next(iter(self._provisional)))
            elif self._closed:
                return None
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
        return EmotionEvent.from_json(self._in_delivery.payload)

    def delivered(self) -> Delivery | None:
        """The final event in delivery has reached the broker. How long that took; None if an earlier program had it."""
        waiting, self._in_delivery = self._in_delivery, None
        if waiting is None:
            return None
        self._remove(waiting)
        if waiting.inherited:
            return None
        saved_s = None if waiting.saved_at is None else waiting.saved_at - waiting.since
        return Delivery(saved_s, time.monotonic() - waiting.since)

    def close(self) -> None:
        """No event comes any more."""
        self._closed = True
        self._changed.set()

    def give_up(self) -> None:
        """Hand out nothing more but what is in delivery."""
        self._given_up = True
        self._changed.set()

    async def _open(self, path: Path) -> None:
        """Raises what open_journal raises."""
        journal, found, unreadable = await asyncio.to_thread(_read, path, self._synchronous)
        loop = asyncio.get_running_loop()
        self._writer = JournalWriter(
            journal,
            written=lambda seq: _call(loop, self._written, seq),
            failed=lambda reason: _call(loop, self._failed, reason),
        )
        self._take_up(self._writer, found, unreadable)

    async def _open_later(self, path: Path) -> None:
        """Try again and again. What a user could mend ends no stream that runs already: only time helps."""
        while self._writer is None:
            await asyncio.sleep(_REOPEN_S)
            try:
                await self._open(path)
            except (OutboxError, sqlite3.Error, OSError) as error:
                log.debug("the outbox %s still cannot be opened: %s", path, error)

    def _put_final(self, event: EmotionEvent) -> None:
        since = time.monotonic()
        payload = event.to_json().encode()
        self._last += 1
        waiting = _Waiting(self._last, payload, since)
        self._append(waiting)
        if self._writer is not None:
            self._writer.add(waiting.entry())
        self._drop_surplus()

    def _append(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._size += len(waiting.payload)

    def _begin_delivery(self) -> None:
        self._in_delivery = waiting = self._waiting.popleft()
        self._size -= len(waiting.payload)
        if self._path is not None and waiting.seq > self._saved:
            self.sent_unsaved += 1

    def _disk_wait_s(self, waiting: _Waiting) -> float:
        """How much longer an event waits for the disk."""
        if self._writer is None or self._disk_fails or waiting.seq <= self._saved:
            return 0.0
        return waiting.since + _DISK_PATIENCE_S - time.monotonic()

    def _drop_surplus(self) -> None:
        count = 0
        while self._waiting and (len(self._waiting) > self._bounds.events or self._size > self._bounds.size):
            self._drop_oldest()
            count += 1
        if count:
            bounds = f"{self._bounds.events} events or {self._bounds.size / 1e6:g} MB"
            self._count_dropped(count, f"more than {bounds} wait for the broker")

    def _drop_outdated(self) -> None:
        count = 0
        oldest = time.monotonic() - self._bounds.age_s
        while self._waiting and self._waiting[0].since < oldest:
            self._drop_oldest()
            count += 1
        if count:
            self._count_dropped(count, f"they waited for the broker for more than {self._bounds.age_s:g} s")

    def _drop_oldest(self) -> None:
        waiting = self._waiting.popleft()
        self._size -= len(waiting.payload)
        self._remove(waiting)

    def _remove(self, waiting: _Waiting) -> None:
        if self._writer is not None:
            self._writer.remove(waiting.seq)

    def _count_dropped(self, count: int, reason: str) -> None:
        self.dropped += count
        log.warning("dropped %d undelivered event(s): %s", count, reason)

    def _take_up(self, writer: JournalWriter, found: list[_Waiting], unreadable: list[int]) -> None:
        """Put what an earlier program left before what this one has already, and the latter on disk."""
        last = max([*(waiting.seq for waiting in found), *unreadable], default=0)
        own, self._waiting, self._size = self._waiting, deque(), 0
        if self._last:
            self._found_late = last
        if self._in_delivery is not None:
            self._in_delivery = replace(self._in_delivery, seq=last + self._in_delivery.seq)
            writer.add(self._in_delivery.entry())
        for waiting in found:
            self._append(waiting)
        for waiting in own:
            self._append(replace(waiting, seq=last + waiting.seq))
            writer.add(self._waiting[-1].entry())
        self._last += last
        self._written(last)
        for seq in unreadable:
            writer.remove(seq)
        if unreadable:
            self._count_dropped(len(unreadable), f"this version cannot read what {self._path} holds of them")
        self._drop_surplus()
        self._drop_outdated()
        if taken := sum(waiting.seq <= last for waiting in self._waiting):
            log.info("took up %d undelivered event(s) from %s", taken, self._path)

    def _written(self, seq: int) -> None:
        if self._disk_fails:
            log.warning("the outbox %s can be written again", self._path)
        self._disk_fails = False
        self._note_saved(seq)
        self._saved = max(self._saved, seq)
        self._changed.set()

    def _note_saved(self, seq: int) -> None:
        """Of those that wait: what went out already was not on disk before."""
        now = time.monotonic()
        for waiting in reversed(self._waiting):
            if waiting.seq <= self._saved:
                return
            if waiting.seq <= seq:
                waiting.saved_at = now

    def _failed(self, reason: str) -> None:
        if not self._disk_fails:
            log.error("cannot write the outbox %s (%s): new events wait in memory only", self._path, reason)
        self._disk_fails = True
        self._changed.set()


def _read(path: Path, synchronous: Synchronous) -> tuple[Journal, list[_Waiting], list[int]]:
    """The journal, its events, and the `seq` of entries that are none. Blocks."""
    journal = open_journal(path, synchronous)
    try:
        entries = journal.entries()
    except sqlite3.Error:
        journal.close()
        raise
    found, unreadable = [], []
    now, now_monotonic = time.time(), time.monotonic()
    for entry in entries:
        try:
            EmotionEvent.from_json(entry.payload)
        except ValidationError:
            unreadable.append(entry.seq)
        else:
            since = now_monotonic - max(0.0, now - entry.accepted_at)
            found.append(_Waiting(entry.seq, entry.payload, since, inherited=True))
    return journal, found, unreadable


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """From the writer's thread. A loop that was closed before a slow disk answered hears of nothing."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)
