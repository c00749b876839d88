"""Puts numbered events into an outbox, delivers some, notes both, and ends as by kill -9.

python accepting.py OUTBOX full|normal COUNT
"""

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import Literal, cast

from brokers import until
from devices.power_cut import Marks
from emotion_events import emotion_event

from streamer.mqtt import journal_writer
from streamer.mqtt.outbox import Bounds, Outbox

ACCEPTED, DELIVERED = 1, 2


async def main(path: Path, synchronous: Literal["full", "normal"], count: int) -> None:
    chance = random.Random(1)
    marks = Marks.of_this_program()
    journal_writer.SETTLE_S = 0.02
    async with Outbox(Bounds(1000, 10_000_000, 3600), path, synchronous) as outbox:
        for number in range(count):
            outbox.put(emotion_event(number))
            await until(lambda: outbox.unsaved == 0)
            marks.note(ACCEPTED, number)
            if chance.random() < 0.6:
                event = await outbox.first()
                assert event is not None
                marks.note(DELIVERED, int(event.event_id.removeprefix("event-")))
                outbox.delivered()
            if chance.random() < 0.1:
                await asyncio.sleep(0.05)  # long enough to settle
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), cast(Literal["full", "normal"], sys.argv[2]), int(sys.argv[3])))
