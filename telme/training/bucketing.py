"""Batches of items of similar length: little padding, and still a random order."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_POOL = 50  # batches whose items are sorted by length together


def bucketed(lengths: Sequence[int], size: int) -> list[npt.NDArray[np.int64]]:
    """Split items 0 … N-1 into batches of `size` (the last may be smaller) of similar length; none for no item.

    Items are sorted only within pools of neighbours, so that a shuffled order stays random at large.
    """
    if not lengths:
        return []
    sizes = np.asarray(lengths)
    pools = np.array_split(np.arange(len(sizes)), range(size * _POOL, len(sizes), size * _POOL))
    order = np.concatenate([pool[np.argsort(sizes[pool], kind="stable")] for pool in pools])
    return np.array_split(order, range(size, len(order), size))
