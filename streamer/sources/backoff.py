"""Pauses between attempts to reach a device that is away."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Doubling pauses, in seconds, from `min_s` to `max_s`."""

    min_s: float = 0.2
    max_s: float = 1.0

    def pauses_s(self) -> Iterator[float]:
        pause_s = self.min_s
        while True:
            yield pause_s
            pause_s = min(2 * pause_s, self.max_s)
