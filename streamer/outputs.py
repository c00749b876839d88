"""What shows events on this machine, as the settings want it."""

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from streamer.health import Health
from streamer.health_page import HealthPage
from streamer.http_server import HttpServer
from streamer.json_lines import JsonLines, OutputError
from streamer.metrics import Metrics
from streamer.pipeline import Sink
from streamer.report import Report
from streamer.settings import Sources, StreamSettings
from streamer.viewer.page import LivePage
from streamer.viewer.terminal import TerminalView

log = logging.getLogger(__name__)


async def served_metrics(settings: StreamSettings, health: Health, parts: AsyncExitStack) -> Metrics | None:
    """Raises HttpServerError where they cannot be served."""
    if settings.output.metrics_port is None:
        return None
    metrics = Metrics()
    server = HttpServer(
        settings.output.metrics_host,
        settings.output.metrics_port,
        {"/metrics": metrics.page, "/healthz": HealthPage(health)},
    )
    await parts.enter_async_context(server)
    log.info("metrics at %s/metrics, health at %s/healthz", server.url, server.url)
    return metrics


async def local_sinks(
    settings: StreamSettings, bundle: str, parts: AsyncExitStack
) -> tuple[list[Sink], Callable[[str], object]]:
    """What shows events on this machine: JSON lines or the live view, if any, and the live page where it is wanted.

    Also a function that says something to the person who started the program.
    Raises PageError, and OutputError where there is nothing to write to.
    """
    sinks: list[Sink] = []
    if settings.output.viewer_port is not None:
        page = await parts.enter_async_context(LivePage(settings.output.viewer_port))
        log.info("live page at %s", page.url)
        sinks.append(page)
    if settings.output.json_lines:
        if sys.stdout is None:
            raise OutputError("cannot write events: the standard output is closed.")
        sinks.append(parts.enter_context(JsonLines(sys.stdout, provisional=settings.output.provisional)))
        return sinks, sys.stderr.write
    if not settings.output.view:
        return sinks, sys.stderr.write
    view = parts.enter_context(TerminalView(Console()))
    heard = ", ".join(_source_name(stream.sources) for stream in settings.each())
    view.status(f"listening to {heard} with bundle {bundle}; Ctrl-C ends\n")
    sinks.append(view)
    return sinks, view.status


def tell(report: Report, status: Mapping[str, Any], settings: StreamSettings, say: Callable[[str], object]) -> None:
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
