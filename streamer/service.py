"""One `telme-stream` process from start to end: load, connect, open, run, finish, say goodbye."""

import asyncio
import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from streamer.events import BundleId
from streamer.health_page import HealthPage
from streamer.http_server import HttpServer
from streamer.json_lines import JsonLines
from streamer.loop_lag import LoopLag
from streamer.metrics import Metrics
from streamer.mqtt.address import Address
from streamer.mqtt.embedded import EmbeddedBroker
from streamer.mqtt.info import Info
from streamer.mqtt.outbox_path import outbox_path
from streamer.mqtt.password import read_password
from streamer.mqtt.publisher import Publisher
from streamer.mqtt.said import Said
from streamer.pipeline import Pipeline, Sink
from streamer.report import Report
from streamer.segmenter import Segmenter
from streamer.settings import Recognition, Sources, StreamSettings
from streamer.sources.open import open_source
from streamer.supervision import Read, Supervision
from streamer.transcriber import Transcriber
from streamer.vad import make_detector
from streamer.viewer.page import LivePage
from streamer.viewer.terminal import TerminalView
from streamer.voices import VoiceReader
from telme import hub
from telme.bundle import COMPACT, Bundle, UnfitError
from telme.runtime import fit
from telme.runtime.recognizer import Recognizer
from telme.runtime.voiceprint import VoiceEncoder

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Models:
    recognizer: Recognizer
    transcriber: Transcriber | None
    segmenter: Segmenter
    voices: VoiceReader | None


async def serve(settings: StreamSettings, read: Read) -> None:
    """Run one stream until its source ends or a signal stops it.

    read: reads the settings again, in all their layers; raises ConfigurationError.
    `online` is published once everything is loaded, warm and open. Raises the parts' own errors
    (BundleError, TranscriberError, SourceError, BrokerError …) for what a user can mend.
    """
    async with AsyncExitStack() as parts:
        stopping = parts.enter_context(_signals())
        supervision = await parts.enter_async_context(Supervision(settings, read, stopping))
        # What is quickly checked comes first; devices are opened last, when everything is ready for what they bring.
        bundle = await asyncio.to_thread(open_bundle, settings.recognition)
        source = open_source(settings.sources, bundle.manifest.visual.rate_hz)
        publisher = await parts.enter_async_context(connected_publisher(settings))
        metrics = await _served_metrics(settings, supervision, parts)
        models = await asyncio.to_thread(load_models, settings, bundle)
        await parts.enter_async_context(source)
        sinks, say = await _local_sinks(settings, bundle.manifest.name, parts)
        report = Report()
        sinks.append(report)
        if publisher is not None:
            sinks.append(publisher)
        if metrics is not None:
            sinks.append(metrics)
        pipeline = Pipeline(
            settings,
            source,
            models.segmenter,
            models.transcriber,
            models.recognizer,
            sinks,
            voices=models.voices,
        )
        lag = LoopLag()
        watching_lag = asyncio.create_task(lag.run(), name="loop-lag")
        parts.callback(watching_lag.cancel)

        def now() -> dict[str, Any]:
            return {"health": supervision.health.check().as_json(), **status(pipeline, publisher, lag)}

        if metrics is not None:
            metrics.ask(now, settings.stream)
        if publisher is not None:
            _answer_requests(publisher, pipeline, supervision, now)
            publisher.ready(_info(settings, bundle))
        supervision.begin([pipeline], publisher)
        try:
            await _run_until(stopping, pipeline, publisher, settings.stop_s)
        finally:
            ended = status(pipeline, publisher, lag)
            logger.info("stream ended", extra=ended)
            if settings.output.report:
                _tell(report, ended, settings, say)


def open_bundle(recognition: Recognition) -> Bundle:
    """The bundle that is wanted, or the fallback where this machine cannot run it.

    Raises UnfitError where no fallback is wanted, BundleError where a bundle is damaged.
    """
    bundle = hub.open_bundle(recognition.bundle or COMPACT)
    try:
        fit.demand(bundle)
    except UnfitError as error:
        if recognition.fallback is None:
            raise
        bundle = hub.open_bundle(COMPACT if recognition.fallback == Path("compact") else recognition.fallback)
        fit.demand(bundle)
        logger.warning("running %s instead: %s", bundle.folder, error)
    return bundle


def load_models(settings: StreamSettings, bundle: Bundle) -> Models:
    """Load and warm up; takes seconds, so not in the event loop."""
    recognizer = Recognizer.load(bundle, threads=settings.recognition.threads)
    transcriber = Transcriber.load(settings.transcription)
    recognizer.warm_up()
    if transcriber is not None:
        transcriber.warm_up()
    detector = make_detector(settings.vad)
    segmenter = Segmenter(settings.segmentation, detector, drafts=settings.recognition.speculate)
    voices = VoiceReader(VoiceEncoder.load()) if settings.speakers.people_max > 1 else None
    return Models(recognizer, transcriber, segmenter, voices)


@asynccontextmanager
async def connected_publisher(settings: StreamSettings) -> AsyncIterator[Publisher | None]:
    """A publisher that the broker has accepted; None where no broker is wanted."""
    async with AsyncExitStack() as parts:
        address = settings.mqtt.url
        if settings.mqtt.broker == "embedded":
            broker = await parts.enter_async_context(EmbeddedBroker(settings.mqtt.broker_port))
            address = Address.parse(broker.url)
            logger.info("embedded broker at %s", broker.url)
        if address is None:
            yield None
            return
        password = read_password(settings.mqtt.password_file, os.environ)
        outbox = outbox_path(settings.mqtt, settings.node, os.environ)
        publisher = Publisher(settings.mqtt, address, settings.node, password, outbox)
        await parts.enter_async_context(publisher)
        await publisher.first_connection()
        yield publisher


def status(pipeline: Pipeline, publisher: Publisher | None, lag: LoopLag) -> dict[str, Any]:
    """Everything that is counted, as the request `status` answers it."""
    p99_ms, max_ms = lag.p99_and_max_ms()
    return {
        "paused": pipeline.paused,
        "speaking": pipeline.segmenter.speaking,
        "dialogue_turns": len(pipeline.dialogue),
        "pipeline": dataclasses.asdict(pipeline.counters),
        "speculation": dataclasses.asdict(pipeline.speculation),
        "transcription": dataclasses.asdict(pipeline.transcription) if pipeline.transcription is not None else None,
        "speakers": dataclasses.asdict(pipeline.speakers),
        "segmenter": dataclasses.asdict(pipeline.segmenter.counters),
        "pictures": dataclasses.asdict(pipeline.pictures),
        "source": dataclasses.asdict(pipeline.source.counters),
        "mqtt": dataclasses.asdict(publisher.status()) if publisher is not None else None,
        "loop_lag_ms": {"p99": round(p99_ms, 1), "max": round(max_ms, 1)},
    }


async def _served_metrics(settings: StreamSettings, supervision: Supervision, parts: AsyncExitStack) -> Metrics | None:
    if settings.output.metrics_port is None:
        return None
    metrics = Metrics()
    server = HttpServer(
        settings.output.metrics_host,
        settings.output.metrics_port,
        {"/metrics": metrics.page, "/healthz": HealthPage(supervision.health)},
    )
    await parts.enter_async_context(server)
    logger.info("metrics at %s/metrics, health at %s/healthz", server.url, server.url)
    return metrics


async def _local_sinks(
    settings: StreamSettings, bundle: str, parts: AsyncExitStack
) -> tuple[list[Sink], Callable[[str], object]]:
    """What shows events on this machine: JSON lines or the live view, and the live page where it is wanted.

    Also a function that says something to the person who started the program.
    """
    sinks: list[Sink] = []
    if settings.output.viewer_port is not None:
        page = await parts.enter_async_context(LivePage(settings.output.viewer_port))
        logger.info("live page at %s", page.url)
        sinks.append(page)
    if settings.output.json_lines:
        sinks.append(parts.enter_context(JsonLines(sys.stdout, provisional=settings.output.provisional)))
        return sinks, sys.stderr.write
    view = parts.enter_context(TerminalView(Console()))
    view.status(f"listening to {_source_name(settings.sources)} with bundle {bundle}; Ctrl-C ends\n")
    sinks.append(view)
    return sinks, view.status


def _tell(report: Report, status: Mapping[str, Any], settings: StreamSettings, say: Callable[[str], object]) -> None:
    """To the log where programs read it, else to the person."""
    if settings.log.format == "json":
        report.log(status)
    else:
        say(report.text(status))


def _source_name(sources: Sources) -> str:
    names = (
        sources.media and Path(sources.media).name,
        sources.microphone,
        sources.camera and f"camera {sources.camera}",
    )
    return " and ".join(name for name in names if name)


def _answer_requests(
    publisher: Publisher, pipeline: Pipeline, supervision: Supervision, now: Callable[[], Mapping[str, Any]]
) -> None:
    async def pause() -> None:
        pipeline.paused = True

    async def resume() -> None:
        pipeline.paused = False

    async def reset_dialogue() -> None:
        pipeline.reset_dialogue()

    async def report() -> Mapping[str, Any]:
        return now()

    def hear(said: Said) -> None:
        pipeline.hear(said.speaker, said.text)

    publisher.on_request("pause", pause)
    publisher.on_request("resume", resume)
    publisher.on_request("reset-dialogue", reset_dialogue)
    publisher.on_request("reload", supervision.answer_reload)
    publisher.on_request("status", report)
    publisher.on_said(hear)


def _info(settings: StreamSettings, bundle: Bundle) -> Info:
    return Info(
        bundle=BundleId(name=bundle.manifest.name, sha256=bundle.sha256),
        labels=bundle.manifest.labels,
        streams=(settings.stream,),
    )


async def _run_until(stopping: asyncio.Event, pipeline: Pipeline, publisher: Publisher | None, stop_s: float) -> None:
    running = asyncio.create_task(pipeline.run(), name="pipeline")
    waited_for: set[asyncio.Task[Any]] = {running}
    if publisher is not None:
        waited_for.add(asyncio.create_task(publisher.failure(), name="mqtt-failure"))
    waited_for.add(asyncio.create_task(stopping.wait(), name="signal"))
    try:
        done, _ = await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        if running not in done:
            await _finish(pipeline, running, stop_s)
        for task in done:
            task.result()
    finally:
        for task in waited_for:
            task.cancel()
        await asyncio.gather(*waited_for, return_exceptions=True)


async def _finish(pipeline: Pipeline, running: asyncio.Task[None], stop_s: float) -> None:
    """Let the utterance in hand become an event, but no longer than `stop_s`."""
    started = time.monotonic()
    pipeline.stop()
    await asyncio.wait({running}, timeout=stop_s)
    if running.done():
        running.result()
    else:
        logger.warning("gave up the utterances in hand", extra={"after_s": round(time.monotonic() - started, 1)})


@contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set, to ask for a clean end; a second signal ends at once."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def ask() -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        logger.info("stopping: finishing the utterance in hand")
        stopping.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, ask)
    try:
        yield stopping
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
