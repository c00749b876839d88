"""One `telme-stream` process from start to end: load, connect, open, run, finish, say goodbye."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from streamer.answers import answer_requests
from streamer.ending import end_process
from streamer.events import BundleId
from streamer.loop_lag import LoopLag
from streamer.metrics import SHARED, Metrics
from streamer.models import load_models, open_bundle
from streamer.mqtt.address import Address
from streamer.mqtt.embedded import EmbeddedBroker
from streamer.mqtt.info import Info
from streamer.mqtt.outbox_path import outbox_path
from streamer.mqtt.password import read_password
from streamer.mqtt.publisher import Publisher
from streamer.outputs import local_sinks, served_metrics, tell
from streamer.pipeline import Pipeline
from streamer.report import Report
from streamer.segmenter import make_segmenter
from streamer.settings import StreamSettings
from streamer.signals import Source
from streamer.sources.open import open_source
from streamer.streams import Streams
from streamer.supervision import Read, Supervision
from telme.bundle import Bundle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What runs once everything is loaded, connected and open.

    say: writes where people read.
    """

    settings: StreamSettings
    streams: Streams
    publisher: Publisher | None
    report: Report
    say: Callable[[str], object]

    async def run_until(self, stopping: asyncio.Event) -> bool:
        """Until all sources end or `stopping` is set; whether the utterances in hand became events."""
        finished = True
        running = asyncio.create_task(self.streams.run(), name="streams")
        waited_for: set[asyncio.Task[Any]] = {running}
        if self.publisher is not None:
            waited_for.add(asyncio.create_task(self.publisher.failure(), name="mqtt-failure"))
        waited_for.add(asyncio.create_task(stopping.wait(), name="signal"))
        try:
            done, _ = await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if running not in done:
                finished = await self._finish(running)
            for task in done:
                task.result()
        finally:
            for task in waited_for:
                task.cancel()
            await asyncio.gather(*waited_for, return_exceptions=True)
        return finished

    def tell(self) -> None:
        """What was counted. Once the publisher is left: until then some events may still be delivered or dropped."""
        ended = self.streams.status()
        log.info("stream ended", extra=ended)
        if self.settings.output.report:
            tell(self.report, ended, self.settings, self.say)

    async def _finish(self, running: asyncio.Task[None]) -> bool:
        """Let the utterances in hand become events, but no longer than `stop_s`; whether that was enough."""
        started = time.monotonic()
        self.streams.stop()
        await asyncio.wait({running}, timeout=self.settings.stop_s)
        if running.done():
            running.result()
        else:
            log.warning("gave up the utterances in hand", extra={"after_s": round(time.monotonic() - started, 1)})
        return running.done()


async def serve(settings: StreamSettings, read: Read) -> bool:
    """Run all streams until their sources end or a signal stops them; a second signal ends the process at once.

    read: reads the settings again, in all their layers; raises ConfigurationError.
    Returns False where a thread may still be at work, which neither event loop nor interpreter would end before.
    Raises the parts' own errors (BundleError, TranscriberError, SourceError, BrokerError …) for what a user can mend.
    """
    async with AsyncExitStack() as last, AsyncExitStack() as parts:
        stopping = last.enter_context(_signals())
        starting = asyncio.create_task(_start(settings, read, stopping, parts, last), name="start")
        asked = asyncio.create_task(stopping.wait(), name="signal")
        parts.callback(asked.cancel)
        await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        if starting.cancelled():
            log.info("stopped before all was ready")
            return False
        service = starting.result()
        last.callback(service.tell)
        return await service.run_until(stopping)


async def _start(
    settings: StreamSettings, read: Read, stopping: asyncio.Event, parts: AsyncExitStack, last: AsyncExitStack
) -> Service:
    """`online` is published once everything is loaded, warm and open.

    last: is left last: through it the end is reported.
    """
    each = settings.each()
    supervision = await parts.enter_async_context(Supervision(settings, read, stopping))
    # What is quickly checked comes first; devices are opened last, when everything is ready for what they bring.
    bundle = await asyncio.to_thread(open_bundle, settings.recognition)
    sources = [open_source(one.sources, bundle.manifest.visual.rate_hz) for one in each]
    publisher = await parts.enter_async_context(connected_publisher(settings))
    metrics = await served_metrics(settings, supervision.health, parts)
    models = await asyncio.to_thread(load_models, settings, bundle)
    parts.callback(models.close)
    segmenters = [await asyncio.to_thread(make_segmenter, one) for one in each]
    await _open(sources, parts)
    sinks, say = await local_sinks(settings, bundle.manifest.name, last)
    report = Report()
    measuring: list[Report | Metrics] = [report] if metrics is None else [report, metrics]
    if publisher is not None:
        sinks.append(publisher)
        for sink in measuring:
            publisher.on_delivery(sink.delivered)
    sinks += measuring
    lag = LoopLag()
    watching_lag = asyncio.create_task(lag.run(), name="loop-lag")
    parts.callback(watching_lag.cancel)
    pipelines = {
        one.stream: Pipeline(one, source, segmenter, models, sinks)
        for one, source, segmenter in zip(each, sources, segmenters, strict=True)
    }
    streams = Streams(pipelines, models.transcriber, publisher, lag)

    def now(stream: str | None = None) -> dict[str, Any]:
        return {"health": supervision.health.check().as_json(), **streams.status(stream)}

    if metrics is not None:
        metrics.ask(now, each[0].stream if len(each) == 1 else SHARED)
    if publisher is not None:
        answer_requests(publisher, streams, supervision, now)
        publisher.ready(_info(settings, bundle))
    supervision.begin(streams, publisher)
    return Service(settings, streams, publisher, report, say)


@asynccontextmanager
async def connected_publisher(settings: StreamSettings) -> AsyncIterator[Publisher | None]:
    """A publisher that the broker has accepted; None where no broker is wanted."""
    async with AsyncExitStack() as parts:
        address = settings.mqtt.url
        if settings.mqtt.broker == "embedded":
            broker = await parts.enter_async_context(EmbeddedBroker(settings.mqtt.broker_port))
            address = Address.parse(broker.url)
            log.info("embedded broker at %s", broker.url)
        if address is None:
            yield None
            return
        password = read_password(settings.mqtt.password_file, os.environ)
        outbox = outbox_path(settings.mqtt, settings.node, os.environ)
        publisher = Publisher(settings.mqtt, address, settings.node, password, outbox)
        await parts.enter_async_context(publisher)
        await publisher.first_connection()
        yield publisher


def _info(settings: StreamSettings, bundle: Bundle) -> Info:
    return Info(
        bundle=BundleId(name=bundle.manifest.name, sha256=bundle.sha256),
        labels=bundle.manifest.labels,
        streams=tuple(one.stream for one in settings.each()),
    )


async def _open(sources: Sequence[Source], parts: AsyncExitStack) -> None:
    """All at the same time, so that the first does not wait for the last. Raises SourceError."""
    opening = (parts.enter_async_context(source) for source in sources)
    for outcome in await asyncio.gather(*opening, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


@contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set, to ask for a clean end; a second signal ends at once."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def ask() -> None:
        if stopping.is_set():
            log.warning("ended at once, by a second signal")
            end_process(130)
        log.info("stopping: finishing the utterance in hand")
        stopping.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, ask)
    try:
        yield stopping
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
