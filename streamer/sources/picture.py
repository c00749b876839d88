"""Which pictures of a stream are looked at, and at which size."""

import math

SIDE_MAX_PX = 1280  # a face in a scene still has the 100 px or so that recognition reads


class FrameGrid:
    """Chooses the first frame of each 1/rate_hz of the stream, by timestamps alone."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._cell = -1

    def takes(self, time_s: float) -> bool:
        # A timestamp that means k/rate_hz may lie a rounding error below it.
        cell = math.floor(time_s * self._rate_hz + 1e-6)
        if cell <= self._cell:
            return False
        self._cell = cell
        return True


def reduced_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) with the same shape and the longer side at most SIDE_MAX_PX."""
    scale = min(1.0, SIDE_MAX_PX / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
