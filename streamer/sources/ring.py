"""A ring of sound blocks between an audio callback and a thread."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Block:
    """What one callback delivered.

    samples: (n, channels) float32.
    arrived_s: when, on the machine's monotonic clock.
    captured_s: when its first sample was captured, on the device's clock.
    overflowed: the device lost samples just before this block.
    skipped: samples just before this block that found the ring full.
    """

    samples: npt.NDArray[np.float32]
    arrived_s: float
    captured_s: float
    overflowed: bool
    skipped: int


class BlockRing:
    """One writer, one reader, no lock and no allocation on the writer's side: a callback must never wait.

    Each side moves only its own counter, after the slot is complete.
    """

    def __init__(self, slots: int, frames: int, channels: int) -> None:
        """Room for `slots` blocks of at most `frames` samples of `channels` channels."""
        self._samples = np.zeros((slots, frames, channels), np.float32)
        self._frames = np.zeros(slots, np.int64)
        self._times = np.zeros((slots, 2), np.float64)
        self._overflowed = np.zeros(slots, np.bool_)
        self._skipped = np.zeros(slots, np.int64)
        self._slots = slots
        self._skipping = 0
        self._written = 0
        self._read = 0

    def write(self, samples: npt.NDArray[np.float32], arrived_s: float, captured_s: float, overflowed: bool) -> None:
        """Copy a block; a full ring skips it and tells so with the next one."""
        frames = len(samples)
        if self._written - self._read == self._slots:
            self._skipping += frames
            return
        slot = self._written % self._slots
        self._samples[slot, :frames] = samples
        self._frames[slot] = frames
        self._times[slot] = arrived_s, captured_s
        self._overflowed[slot] = overflowed
        self._skipped[slot] = self._skipping
        self._skipping = 0
        self._written += 1

    def read(self) -> Block | None:
        """The oldest block, if there is one."""
        if self._read == self._written:
            return None
        slot = self._read % self._slots
        arrived_s, captured_s = self._times[slot].tolist()
        block = Block(
            samples=self._samples[slot, : self._frames[slot]].copy(),
            arrived_s=arrived_s,
            captured_s=captured_s,
            overflowed=bool(self._overflowed[slot]),
            skipped=int(self._skipped[slot]),
        )
        self._read += 1
        return block
