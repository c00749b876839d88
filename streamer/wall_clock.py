"""Stream time -> wall-clock time."""

from collections.abc import Callable
from datetime import datetime, timedelta

WINDOW_S = 30.0


class WallClock:
    """By which an utterance's seconds on the stream clock become a time of day.

    A live stream is not dated by its beginning alone: sound cards drift by minutes in a month, a small computer sets
    its clock when it finds the network, and what a server had stored comes at once when a stream is opened. Sound comes
    late, now more and now less, and never before it was made: so the earliest beginning that the sound of the last 30
    to 60 s speaks for is taken. A file is dated as if played from the moment it is opened.
    """

    def __init__(self, clock: Callable[[], datetime], live: bool) -> None:
        self._clock = clock
        self._live = live
        self._began_at = clock()
        self._earliest: list[datetime] = []  # of the last window and of this one
        self._window_end_s = 0.0
        self._dated = 0
        self._dated_by = self._began_at

    def begin(self) -> None:
        """The stream begins now."""
        self._began_at = self._clock()

    def heard(self, end_s: float) -> None:
        """Sound has come that ends at `end_s` on the stream clock."""
        if not self._live:
            return
        began_at = self._clock() - timedelta(seconds=end_s)
        if end_s >= self._window_end_s:
            self._earliest = [*self._earliest[-1:], began_at]
            self._window_end_s = end_s + WINDOW_S
        self._earliest[-1] = min(self._earliest[-1], began_at)
        self._began_at = min(self._earliest)

    def began_at(self, number: int) -> datetime:
        """When the stream began, seen from utterance `number`: the same for all its drafts and its end.

        Utterances are asked for in order.
        """
        if number != self._dated:
            self._dated, self._dated_by = number, self._began_at
        return self._dated_by
