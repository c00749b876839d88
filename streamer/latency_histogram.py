"""How long something took, over any number of times, in little memory."""

import math
from typing import Final

import numpy as np

MIN_MS: Final = 0.1
MAX_MS: Final = 600_000.0
RATIO: Final = 1.02
_STEP: Final = math.log(RATIO)


class LatencyHistogram:
    """Counts in fixed buckets, each 2 % wider than the one before, from 0.1 ms to ten minutes.

    A percentile is off by at most 1 %, whatever was added and in whatever order. A reservoir of samples of the same
    size would be exact for a short run, but its p99 of a long one would rest on a few samples that chance left over.
    What lies outside the range counts in the first or the last bucket.
    """

    def __init__(self) -> None:
        self._buckets = np.zeros(math.ceil(math.log(MAX_MS / MIN_MS) / _STEP) + 1, np.int64)
        self._max_ms = 0.0

    @property
    def count(self) -> int:
        return int(self._buckets.sum())

    @property
    def max_ms(self) -> float:
        """Exact; 0 before anything was added."""
        return self._max_ms

    def add(self, ms: float) -> None:
        bucket = math.floor(math.log(max(ms, MIN_MS) / MIN_MS) / _STEP)
        self._buckets[min(bucket, len(self._buckets) - 1)] += 1
        self._max_ms = max(self._max_ms, ms)

    def percentile(self, percent: float) -> float:
        """The smallest value that `percent` in [0, 100] of all values do not exceed, in ms; NaN before the first.

        It is the geometric middle of its bucket, but never above the largest value.
        """
        count = self.count
        if not count:
            return math.nan
        rank = max(1, math.ceil(percent / 100 * count))
        bucket = int(np.searchsorted(self._buckets.cumsum(), rank))
        return min(MIN_MS * math.exp((bucket + 0.5) * _STEP), self._max_ms)
