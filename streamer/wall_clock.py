"""Stream time -> wall-clock time, and how late sound comes."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from streamer.arrivals import Arrivals


class WallClock:
    """By which an utterance's seconds on the stream clock become a time of day.

    A live stream is not dated by its beginning alone: sound cards drift, and what a server had stored comes at once
    when a stream is opened. So what arrives tells when it began (Arrivals). That becomes a date when one is asked for:
    a small computer sets its clock when it finds the network. A file is dated as if played from when it is opened.
    """

    def __init__(
        self, clock: Callable[[], datetime], live: bool, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._live = live
        self._arrivals = Arrivals(monotonic)
        self._dated = 0
        self._dated_by = clock()

    def begin(self) -> None:
        """The stream begins now."""
        self._arrivals.began = self._arrivals.monotonic()

    def heard(self, end_s: float) -> None:
        """Sound has come that ends at `end_s` on the stream clock."""
        if self._live:
            self._arrivals.heard(end_s)

    def late_s(self, time_s: float) -> float | None:
        """Seconds by which what was made at `time_s` on the stream clock is past; None in a file, which waits."""
        return max(self._arrivals.now_s() - time_s, 0.0) if self._live else None

    def began_at(self, number: int) -> datetime:
        """When the stream began, seen from utterance `number`: the same for all its drafts and its end.

        Utterances are asked for in order.
        """
        if number != self._dated:
            self._dated = number
            self._dated_by = self._clock() - timedelta(seconds=self._arrivals.now_s())
        return self._dated_by
