"""Channels that cancel each other out when they are mixed, as where a cable inverts one of them."""

import logging

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

WINDOW_S = 0.5  # of sound is judged together: a single consonant may well cancel between two good microphones
POWER_MIN = 1e-6  # of a channel, at full scale 1: -60 dB; softer sound tells nothing
SHARE_MIN = 0.1  # power of the channels' sum by the sum of their powers: 1 if they are unrelated, 0 if they cancel

Samples = npt.NDArray[np.float32]


class CancellationGuard:
    """Lets channels pass that can be mixed; of others only the loudest, until they can be mixed again.

    Each window of sound decides over what follows it. The first that cancels is logged.

    name: of the source, for logs.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._alone: int | None = None
        self._told = False
        self._begin(0)

    def __call__(self, block: Samples, rate_hz: int) -> Samples:
        """block: (n, channels) -> (n, channels) or (n, 1)."""
        channels = block.shape[1]
        if channels == 1:
            return block
        if channels != len(self._powers):
            self._alone = None
            self._begin(channels)
        self._powers += np.square(block, dtype=np.float64).sum(axis=0)
        self._power_of_sum += float(np.square(block.sum(axis=1, dtype=np.float64)).sum())
        self._heard += len(block)
        if self._heard >= WINDOW_S * rate_hz:
            self._judge()
            self._begin(channels)
        return block if self._alone is None else block[:, self._alone : self._alone + 1]

    def _begin(self, channels: int) -> None:
        self._powers = np.zeros(channels)
        self._power_of_sum = 0.0
        self._heard = 0

    def _judge(self) -> None:
        if not self._powers.max() / self._heard >= POWER_MIN:
            return
        cancels = self._power_of_sum < SHARE_MIN * self._powers.sum()
        self._alone = int(self._powers.argmax()) if cancels else None
        if cancels and not self._told:
            self._told = True
            log.warning("%s: its channels cancel each other out, so only the loudest is heard", self._name)
