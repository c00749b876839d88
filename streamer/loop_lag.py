"""How late the event loop runs: the measure of whether something blocks it."""

import asyncio
from collections import deque

import numpy as np

PERIOD_S = 0.01
# Bounds memory: the last ten minutes.
SAMPLES_MAX = 60_000


class LoopLag:
    """Sleeps `PERIOD_S` again and again and keeps by how much each sleep overshot."""

    def __init__(self) -> None:
        self._lags_ms: deque[float] = deque(maxlen=SAMPLES_MAX)

    async def run(self) -> None:
        """Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            self._lags_ms.append(1000 * max(0.0, loop.time() - due))

    def p99_and_max_ms(self) -> tuple[float, float]:
        """99th percentile and maximum in milliseconds; zeros before the first sample."""
        if not self._lags_ms:
            return 0.0, 0.0
        lags = np.array(self._lags_ms)
        return float(np.percentile(lags, 99)), float(lags.max())
