"""How many samples a device lost between two blocks."""

from collections import deque
from math import inf

from streamer.sources.ring import Block

WINDOW_S = 1.0
REMEMBERED = 12  # windows; a slow device clock drifts by about a millisecond in them
SILENT_LOSS_MIN_S = 0.1


class Losses:
    """Counts what one open device lost: what it or the ring reports, and what it lost without a word.

    After a silent loss every block comes late. How late the most punctual block of a second came is free of
    the machine's scheduling; once that stays higher for two seconds, the difference was lost.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._last: Block | None = None
        self._due_s = 0.0  # when the next block arrives if nothing is lost or late
        self._window_ends_s = 0.0
        self._least_late_s = inf
        self._windows: deque[float] = deque(maxlen=REMEMBERED)

    def before(self, block: Block) -> int:
        """Samples, at the device's rate, that are missing between the block asked for last and this one."""
        if self._last is None:
            self._due_s = block.arrived_s
            self._window_ends_s = block.arrived_s + WINDOW_S
        reported = self._reported(block)
        self._due_s += reported / self._rate_hz
        silent = self._silent(block.arrived_s)
        self._due_s += (silent + len(block.samples)) / self._rate_hz
        self._last = block
        return reported + silent

    def _reported(self, block: Block) -> int:
        if self._last is None or not (block.overflowed or block.skipped):
            return 0
        since = round((block.captured_s - self._last.captured_s) * self._rate_hz)
        return max(block.skipped, since - len(self._last.samples))

    def _silent(self, arrived_s: float) -> int:
        self._least_late_s = min(self._least_late_s, arrived_s - self._due_s)
        if arrived_s < self._window_ends_s:
            return 0
        self._windows.append(self._least_late_s)
        self._least_late_s = inf
        self._window_ends_s = arrived_s + WINDOW_S
        if len(self._windows) < 3:
            return 0
        *earlier, one, two = self._windows
        lost_s = min(one, two) - min(earlier)
        if lost_s < SILENT_LOSS_MIN_S:
            return 0
        self._windows.clear()
        self._windows.append(min(one, two) - lost_s)
        return round(lost_s * self._rate_hz)
