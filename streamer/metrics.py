"""`/metrics`: latencies and counters for Prometheus."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from wsgiref.types import WSGIApplication

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streamer.events import EmotionEvent
from streamer.http_server import ask
from streamer.mqtt.outbox import Delivery
from streamer.report import delivery_ms, stages_ms

log = logging.getLogger(__name__)

Status = Mapping[str, Any]

# Seconds: fine where goals are, from one short stage of a model to an event that nobody waits for any more.
BUCKETS: Final = (
    *(0.005, 0.01, 0.02, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75),
    *(1.0, 1.25, 1.5, 2.0, 3.0, 5.0),
)
# Whole numbers of `status` that rise and fall, and other numbers that do not. All further whole numbers in its sections
# count since the start.
LEVELS: Final = frozenset({"waiting", "unsaved", "people"})
SUMS: Final = frozenset({"wasted_ms"})
ANSWER_S = 2.0
# The stream of what all streams of a process share: to Prometheus, an empty label is none.
SHARED: Final = ""


class Metrics:
    """A sink that counts events, with a registry of its own; `page` serves them and what `status` says."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._events = Counter(
            "telme_events", "Events published, by phase.", ("stream", "phase"), registry=self._registry
        )
        self._final = Histogram(
            "telme_final_latency_seconds",
            "Final events: endpoint, total and acknowledged count from the end of speech, other stages are durations.",
            ("stream", "stage"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._provisional = Histogram(
            "telme_provisional_latency_seconds",
            "Provisional events: from the end of the speech so far.",
            ("stream", "stage"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self.page: WSGIApplication = make_wsgi_app(self._registry)

    def publish(self, event: EmotionEvent) -> None:
        """Count an event and its stages."""
        self._events.labels(event.stream, event.phase).inc()
        histogram = self._final if event.phase == "final" else self._provisional
        for stage, ms in stages_ms(event):
            histogram.labels(event.stream, stage).observe(ms / 1000)

    def delivered(self, event: EmotionEvent, delivery: Delivery) -> None:
        """The broker has acknowledged a final event."""
        for stage, ms in delivery_ms(event, delivery):
            self._final.labels(event.stream, stage).observe(ms / 1000)

    def ask(self, status: Callable[[], Status], stream: str) -> None:
        """From here on each scrape also tells what `status` says, which is called in this event loop.

        stream: that of all that does not stand, under the name of another, in the status's section `streams`.
        """
        self._registry.register(_StatusCollector(status, stream, asyncio.get_running_loop()))


class _StatusCollector(Collector):
    """Whatever numbers the status holds at the moment of a scrape."""

    def __init__(self, status: Callable[[], Status], stream: str, loop: asyncio.AbstractEventLoop) -> None:
        self._status = status
        self._stream = stream
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        """Called in a thread of the server."""
        try:
            status = ask(self._loop, self._status, ANSWER_S)
        except TimeoutError:
            log.warning("no status for a scrape: the event loop did not answer for %.0f s", ANSWER_S)
            return
        families: dict[tuple[str, ...], CounterMetricFamily | GaugeMetricFamily] = {}
        for stream, counted in self._by_stream(status):
            for path, value in numbers(counted):
                if path not in families:
                    families[path] = _family(path, value)
                families[path].add_metric((stream,), value)
        yield from families.values()

    def _by_stream(self, status: Status) -> Iterator[tuple[str, Status]]:
        yield self._stream, {name: value for name, value in status.items() if name != "streams"}
        yield from status.get("streams", {}).items()


def _family(path: tuple[str, ...], value: float) -> CounterMetricFamily | GaugeMetricFamily:
    name = re.sub(r"\W", "_", "_".join(("telme", *path)))
    counts = len(path) > 1 and (path[-1] in SUMS or (type(value) is int and path[-1] not in LEVELS))
    family = CounterMetricFamily if counts else GaugeMetricFamily
    return family(name, f"{'.'.join(path)} of the status.", labels=("stream",))


def numbers(status: Status, *above: str) -> Iterator[tuple[tuple[str, ...], float]]:
    """(path, value) of each number and truth value in nested mappings."""
    for name, value in status.items():
        if isinstance(value, Mapping):
            yield from numbers(value, *above, name)
        elif isinstance(value, int | float):
            yield (*above, name), value
