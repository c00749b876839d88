"""Stream time -> wall-clock time."""

from collections.abc import Callable
from datetime import datetime, timedelta


class WallClock:
    """By which an utterance's seconds on the stream clock become a time of day.

    A live stream's newest sound was made just now. Every utterance is dated by that and not by the stream's beginning:
    sound cards drift by minutes in a month, a small computer sets its clock when it finds the network, and what a
    server had stored comes at once when a stream is opened. A file is dated as if played from the moment it is opened.
    """

    def __init__(self, clock: Callable[[], datetime], live: bool) -> None:
        self._clock = clock
        self._live = live
        self._began_at = clock()
        self._dated = 0
        self._dated_by = self._began_at

    def begin(self) -> None:
        """The stream begins now."""
        self._began_at = self._clock()

    def heard(self, end_s: float) -> None:
        """Sound has come that ends at `end_s` on the stream clock."""
        if self._live:
            self._began_at = self._clock() - timedelta(seconds=end_s)

    def began_at(self, number: int) -> datetime:
        """When the stream began, seen from utterance `number`: the same for all its drafts and its end.

        Utterances are asked for in order.
        """
        if number != self._dated:
            self._dated, self._dated_by = number, self._began_at
        return self._dated_by
