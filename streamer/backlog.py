"""The bounded hand-over from segmentation to recognition."""

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import datetime

from streamer.utterance import Utterance


@dataclass(frozen=True, eq=False)
class Cut:
    """An utterance or a draft.

    at: the moment at which the segmenter gave it out, in monotonic seconds.
    began_at: wall-clock time of the stream's first sample, as this utterance is dated (see WallClock).
    late_s: how late the endpoint's sound came; None in a file, and where none came any more.
    """

    utterance: Utterance
    at: float
    began_at: datetime
    late_s: float | None = None


class Backlog:
    """Utterances that are over, in order, and the newest draft, between one producer and one consumer.

    A draft waits only until something newer comes, and until no utterance waits: it is the first to go.
    With `drop_oldest` at most `size` utterances wait, and the oldest gives way, so that a live producer never waits;
    one whose draft is being worked on waits besides, and does not give way. Without it the producer waits, so that
    no utterance of a file is lost.
    """

    def __init__(self, size: int, *, drop_oldest: bool) -> None:
        self._utterances: deque[Cut] = deque()
        self._draft: Cut | None = None
        self._in_work: int | None = None
        self._size = size
        self._drop_oldest = drop_oldest
        self._closed = False
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        return len(self._utterances) + (self._draft is not None)

    async def put(self, cut: Cut) -> list[Cut]:
        """Append an utterance or a draft; returns what gave way to it."""
        async with self._changed:
            dropped = [] if self._draft is None else [self._draft]
            self._draft = None
            if not cut.utterance.over:
                self._draft = cut
            elif self._drop_oldest:
                dropped += self._make_room()
                self._utterances.append(cut)
            else:
                await self._changed.wait_for(lambda: len(self._utterances) < self._size)
                self._utterances.append(cut)
            self._changed.notify_all()
            return dropped

    async def close(self) -> None:
        """Nothing comes any more; the consumer still gets what waits."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def filled(self) -> bool:
        """Waits until something is there to `take`; False once the backlog is closed and empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self) > 0 or self._closed)
            return len(self) > 0

    @property
    def first(self) -> Cut:
        """What `take` would take: the oldest utterance, else the draft. Raises IndexError when nothing is there."""
        return self._utterances[0] if self._draft is None or self._utterances else self._draft

    async def take(self) -> Cut:
        """Take away the first, for the consumer to work on. Raises IndexError when nothing is there."""
        async with self._changed:
            cut = self.first
            if cut.utterance.over:
                self._utterances.popleft()
            else:
                self._draft = None
            self._in_work = cut.utterance.number
            self._changed.notify_all()
            return cut

    def has_utterance(self, number: int) -> bool:
        """Whether the utterance of a number is over and waits."""
        return any(cut.utterance.number == number for cut in self._utterances)

    def _make_room(self) -> list[Cut]:
        unstarted = [cut for cut in self._utterances if cut.utterance.number != self._in_work]
        oldest = unstarted[: max(len(unstarted) - self._size + 1, 0)]
        for cut in oldest:
            self._utterances.remove(cut)
        return oldest
