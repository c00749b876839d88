"""The meter of the event loop's lag sees what blocks the loop."""

import asyncio
import time

from brokers import until

from streamer import loop_lag
from streamer.loop_lag import LoopLag


async def measured(blocking_s: float, seconds: float) -> tuple[float, float]:
    lag = LoopLag()
    running = asyncio.create_task(lag.run())
    await asyncio.sleep(seconds)
    time.sleep(blocking_s)  # noqa: ASYNC251 - to block is the point
    await asyncio.sleep(0.05)
    running.cancel()
    return lag.p99_and_max_ms()


async def test_a_blocked_loop_shows() -> None:
    _, worst_ms = await measured(blocking_s=0.2, seconds=0.1)
    assert worst_ms >= 150


async def test_nothing_measured_is_no_lag() -> None:
    assert LoopLag().p99_and_max_ms() == (0.0, 0.0)


async def test_the_oldest_lags_are_forgotten() -> None:
    lag = LoopLag()
    lag._lags_ms[:] = 1
    lag._lags_ms[0] = 500
    lag._count = loop_lag.SAMPLES_MAX
    running = asyncio.create_task(lag.run())
    await until(lambda: lag._count > loop_lag.SAMPLES_MAX)
    running.cancel()
    assert lag.p99_and_max_ms()[1] < 500
