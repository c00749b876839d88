"""How late the event loop runs: the measure of whether something blocks it."""

import asyncio

import numpy as np

PERIOD_S = 0.01
# The last ten minutes; room for them is taken at once, so that a long run shows no growth.
SAMPLES_MAX = 60_000


class LoopLag:
    """Sleeps `PERIOD_S` again and again and keeps by how much each sleep overshot."""

    def __init__(self) -> None:
        self._lags_ms = np.zeros(SAMPLES_MAX, np.float32)
        self._count = 0

    async def run(self) -> None:
        """Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            self._lags_ms[self._count % SAMPLES_MAX] = 1000 * max(0.0, loop.time() - due)
            self._count += 1

    def p99_and_max_ms(self) -> tuple[float, float]:
        """99th percentile and maximum in milliseconds; zeros before the first sample."""
        if not self._count:
            return 0.0, 0.0
        lags = self._lags_ms[: self._count]
        return float(np.percentile(lags, 99)), float(lags.max())
