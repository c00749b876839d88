"""When a live stream began, as its sound tells that arrives now late, now less late."""

import time
from collections.abc import Callable

WINDOW_S = 30.0


class Arrivals:
    """The beginning of a stream, in monotonic seconds: the earliest that fits the sound of the last 30 to 60 s.

    Sound comes late, now more and now less, and never before it was made. The window follows clocks that drift: a sound
    card's, by minutes in a month.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.monotonic = monotonic
        self.began = monotonic()
        self._earliest: list[float] = []  # of the last window and of this one
        self._window_end_s = 0.0

    def heard(self, end_s: float) -> None:
        """Sound has come that ends at `end_s` on the stream clock."""
        began = self.monotonic() - end_s
        if end_s >= self._window_end_s:
            self._earliest = [*self._earliest[-1:], began]
            self._window_end_s = end_s + WINDOW_S
        self._earliest[-1] = min(self._earliest[-1], began)
        self.began = min(self._earliest)

    def now_s(self) -> float:
        """Where the stream clock stands."""
        return self.monotonic() - self.began
