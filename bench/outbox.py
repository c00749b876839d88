"""Measures what it costs to keep an event until the broker has it: in memory, and on disk in both modes.

    python bench/outbox.py [--events 1000] [--folder DIR]

Each row is measured in turns with the others, in rounds, so that a busy machine is unfair to all alike:
`put` is what the event loop pays; `accepted` is the time until the event may go out, as it is on disk; `published`
the time until a mosquitto on this machine has acknowledged it, with a pause between events, as speech has; `burst` is
the rate at which many events that come at once may go out.
The folder must lie on the disk that matters: /tmp is often memory.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from streamer.mqtt.address import Address
from streamer.mqtt.outbox import Bounds, Outbox
from streamer.mqtt.publisher import Publisher
from streamer.settings import Mqtt

# The tests' broker and events serve here, too.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from brokers import running_mosquitto
from emotion_events import INFO, emotion_event

ROUNDS = 5
PAUSE_S = 0.1
ROOM = Bounds(1_000_000, 1_000_000_000, 86_400.0)


@dataclass(frozen=True)
class Way:
    name: str
    synchronous: Literal["normal", "full"] = "full"
    disk: bool = True

    def file(self, folder: Path) -> Path | None:
        return folder / f"outbox-{self.name}" if self.disk else None


WAYS = (Way("memory", disk=False), Way("normal", "normal"), Way("full", "full"))


@dataclass
class Times:
    """Milliseconds, but `burst`: events a second."""

    put: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    published: list[float] = field(default_factory=list)
    burst: list[float] = field(default_factory=list)


async def one_by_one(way: Way, folder: Path, events: int, times: Times) -> None:
    async with Outbox(ROOM, way.file(folder), way.synchronous) as outbox:
        for number in range(events):
            event = emotion_event(number)
            began = time.perf_counter()
            outbox.put(event)
            times.put.append(1000 * (time.perf_counter() - began))
            await outbox.first()
            times.accepted.append(1000 * (time.perf_counter() - began))
            outbox.delivered()


async def at_once(way: Way, folder: Path, events: int, times: Times) -> None:
    async with Outbox(ROOM, way.file(folder), way.synchronous) as outbox:
        waiting = [emotion_event(number) for number in range(events)]
        began = time.perf_counter()
        for event in waiting:
            outbox.put(event)
        for _ in range(events):
            await outbox.first()
            outbox.delivered()
        times.burst.append(events / (time.perf_counter() - began))


async def published(way: Way, folder: Path, url: str, events: int, times: Times) -> None:
    settings = Mqtt(outbox_sync=way.synchronous)
    async with Publisher(settings, Address.parse(url), "bench", outbox=way.file(folder)) as publisher:
        await publisher.first_connection()
        publisher.ready(INFO)
        for number in range(events):
            event = emotion_event(number)
            began = time.perf_counter()
            publisher.publish(event)
            while publisher.status().published <= number:  # noqa: ASYNC110 - waiting for an event would be no cheaper
                await asyncio.sleep(0.0005)
            times.published.append(1000 * (time.perf_counter() - began))
            await asyncio.sleep(PAUSE_S)


def table(results: dict[Way, Times]) -> Table:
    shown = Table(title=f"Cost of an event of {len(emotion_event(1).to_json())} bytes: median (p95)")
    for heading in ("outbox", "put, ms", "accepted, ms", "published, ms", "burst, events/s"):
        shown.add_column(heading, justify="left" if heading == "outbox" else "right")
    for way, times in results.items():
        shown.add_row(
            way.name, _figure(times.put), _figure(times.accepted), _figure(times.published),
            f"{statistics.median(times.burst):,.0f}",
        )  # fmt: skip
    return shown


def _figure(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({statistics.quantiles(values, n=20)[-1]:.3f})"


async def measure(events: int, folder: Path) -> dict[Way, Times]:
    results = {way: Times() for way in WAYS}
    with running_mosquitto(folder / "mosquitto", "allow_anonymous true", "set_tcp_nodelay true") as broker:
        for _ in range(ROUNDS):
            for way, times in results.items():
                await one_by_one(way, folder, events // ROUNDS, times)
                await at_once(way, folder, events // ROUNDS, times)
                await published(way, folder, broker.url, events // ROUNDS, times)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=1000, help="of each kind, for each way")
    parser.add_argument("--folder", type=Path, help="where to put the files; default: here")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder or Path.cwd(), prefix="outbox-bench-"))
    try:
        Console().print(table(asyncio.run(measure(options.events, folder))))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
