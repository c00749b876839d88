"""Publishes numbered events until killed: python publishing.py URL OUTBOX FIRST COUNT

Prints the number of each event once it is on disk, and `done` when all are delivered.
"""

import asyncio
import sys
from pathlib import Path

from brokers import until
from emotion_events import INFO, emotion_event

from streamer.mqtt.address import Address
from streamer.mqtt.publisher import Publisher
from streamer.settings import Mqtt

PACE_S = 0.003


async def main(url: str, outbox: Path, first: int, count: int) -> None:
    async with Publisher(Mqtt(connect_timeout_s=2), Address.parse(url), "robot", outbox=outbox) as publisher:
        await publisher.first_connection()
        publisher.ready(INFO)
        for number in range(first, count):
            publisher.publish(emotion_event(number))
            await until(lambda: publisher.status().unsaved == 0)
            print(number, flush=True)
            await asyncio.sleep(PACE_S)
        await until(lambda: publisher.status().waiting == 0)
        print("done", flush=True)
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
