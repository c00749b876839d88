"""python watch_camera.py ADDRESS: a Camera in a process of its own, as LD_PRELOAD needs it.

Prints one JSON line a frame with the mean colour, until stdin closes; then one with the counters.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict

from streamer.sources.backoff import Backoff
from streamer.sources.camera import Camera


async def main(address: str) -> None:
    zero_s = time.monotonic()
    camera = Camera(
        address, rate_hz=5.0, stall_s=1.0, backoff=Backoff(0.1, 0.2), clock=lambda: time.monotonic() - zero_s
    )

    async def watch() -> None:
        async for frame in camera.frames():
            colour = frame.image.mean(axis=(0, 1)).round().tolist()
            print(json.dumps({"time_s": frame.time_s, "shape": frame.image.shape, "colour": colour}), flush=True)

    async with camera:
        watching = asyncio.create_task(watch())
        await asyncio.to_thread(sys.stdin.read)
        watching.cancel()
    print(json.dumps(asdict(camera.counters)), flush=True)


asyncio.run(main(sys.argv[1]))
