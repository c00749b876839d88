"""From the end of speech until a broker has a final event: what the report and the metrics tell of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brokers import free_port, running_mosquitto, until
from emotion_events import INFO, emotion_event
from test_metrics import Samples, scrape, served

from streamer.mqtt.address import Address
from streamer.mqtt.embedded import EmbeddedBroker
from streamer.mqtt.outbox import Bounds, Outbox
from streamer.mqtt.publisher import Publisher
from streamer.report import Report
from streamer.settings import Mqtt

TOTAL_MS = emotion_event(0).latency_ms.total


@dataclass(frozen=True)
class Measuring:
    """A publisher, and what listens to its deliveries."""

    publisher: Publisher
    report: Report
    page: str

    def stages(self) -> dict[str, Any]:
        return dict(self.report.summary({})["latency_ms"])

    async def samples(self) -> Samples:
        return await asyncio.to_thread(scrape, self.page)

    async def all_delivered(self) -> None:
        await until(lambda: self.publisher.status().waiting == 0, lambda: str(self.publisher.status()))


@asynccontextmanager
async def measuring(url: str, outbox: Path | None = None) -> AsyncIterator[Measuring]:
    async with AsyncExitStack() as parts:
        metrics, page = await parts.enter_async_context(served())
        publisher = Publisher(Mqtt(connect_timeout_s=2), Address.parse(url), "robot", outbox=outbox)
        await parts.enter_async_context(publisher)
        report = Report()
        publisher.on_delivery(report.delivered)
        publisher.on_delivery(metrics.delivered)
        await publisher.first_connection()
        publisher.ready(INFO)
        yield Measuring(publisher, report, page)


async def test_finals_are_counted_once_the_broker_has_them_and_by_stream() -> None:
    async with EmbeddedBroker(0) as broker, measuring(broker.url) as measured:
        for number in range(5):
            measured.publisher.publish(emotion_event(number))
        measured.publisher.publish(emotion_event(5, stream="other"))
        measured.publisher.publish(emotion_event(6, phase="provisional"))
        await measured.all_delivered()
        samples, stages = await measured.samples(), measured.stages()
    assert list(stages) == ["delivery", "acknowledged"]
    assert stages["delivery"]["events"] == stages["acknowledged"]["events"] == 6
    assert stages["acknowledged"]["max"] >= TOTAL_MS
    assert samples["telme_final_latency_seconds_count", "acknowledged", "main"] == 5
    assert samples["telme_final_latency_seconds_count", "acknowledged", "other"] == 1
    assert samples["telme_final_latency_seconds_sum", "acknowledged", "main"] >= 5 * TOTAL_MS / 1000
    assert ("telme_final_latency_seconds_count", "saved", "main") not in samples


async def test_an_outage_is_delay() -> None:
    port = free_port()
    async with AsyncExitStack() as broker:
        url = (await broker.enter_async_context(EmbeddedBroker(port))).url
        async with measuring(url) as measured:
            measured.publisher.publish(emotion_event(0))
            await measured.all_delivered()
            await broker.aclose()
            measured.publisher.publish(emotion_event(1))
            published_s = time.monotonic()
            await asyncio.sleep(0.3)
            assert measured.stages()["acknowledged"]["events"] == 1, "nobody has acknowledged the second"
            away_ms = 1000 * (time.monotonic() - published_s)
            await broker.enter_async_context(EmbeddedBroker(port))
            await measured.all_delivered()
            samples, stages = await measured.samples(), measured.stages()
    assert measured.publisher.status().reconnects == 1
    assert stages["acknowledged"]["events"] == stages["delivery"]["events"] == 2
    assert stages["delivery"]["max"] >= round(away_ms, 1)
    assert stages["acknowledged"]["max"] >= round(TOTAL_MS + away_ms, 1)
    assert samples["telme_final_latency_seconds_sum", "acknowledged", "main"] >= (2 * TOTAL_MS + away_ms) / 1000


async def test_what_an_earlier_program_left_is_delivered_and_not_measured(tmp_path: Path) -> None:
    place = tmp_path / "outbox.sqlite3"
    async with Outbox(Bounds(1000, 10_000_000, 3600), place) as outbox:
        outbox.put(emotion_event(0))
        outbox.put(emotion_event(1))
    async with EmbeddedBroker(0) as broker, measuring(broker.url, place) as measured:
        for number in range(2, 5):
            measured.publisher.publish(emotion_event(number))
        await measured.all_delivered()
        samples, stages = await measured.samples(), measured.stages()
        assert measured.publisher.status().published == 5
    assert {stage: told["events"] for stage, told in stages.items()} == {"saved": 3, "delivery": 3, "acknowledged": 3}
    assert samples["telme_final_latency_seconds_count", "acknowledged", "main"] == 3
    assert samples["telme_final_latency_seconds_count", "saved", "main"] == 3


async def test_what_the_access_rules_refuse_is_not_published(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic write telme/robot/availability\n")
    with running_mosquitto(tmp_path / "mosquitto", "allow_anonymous true", f"acl_file {rules}") as broker:
        async with measuring(broker.url) as measured:
            measured.publisher.publish(emotion_event(1))
            await measured.all_delivered()
            assert measured.publisher.status().denied > 0
            assert measured.stages() == {}
