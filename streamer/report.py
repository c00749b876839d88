"""What `--report` says when a stream ends: how late its events were, stage by stage, and what was lost.

Where events go to a broker, a final one is published once the broker has acknowledged it, which the event itself
cannot know: that is measured here, from the end of speech. After an outage the wait is delay, too, and counts. Events
that an earlier program left are left out: no clock that does not jump tells when their speech ended.
"""

import logging
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from streamer.events import EmotionEvent, Latency
from streamer.latency_histogram import LatencyHistogram
from streamer.mqtt.outbox import Delivery

log = logging.getLogger(__name__)

PERCENTILES: Final = (50, 95, 99)
AFTER_ENDPOINT: Final = "after_endpoint"
SAVED: Final = "saved"
DELIVERY: Final = "delivery"
ACKNOWLEDGED: Final = "acknowledged"
PROVISIONAL: Final = "provisional_total"
_WIDTH = 80


def stages_ms(event: EmotionEvent) -> Iterator[tuple[str, float]]:
    """(name, milliseconds) of each stage of an event that ran, and what the endpoint left: total - endpoint."""
    for name, ms in event.latency_ms:
        if isinstance(ms, float):
            yield name, ms
    yield AFTER_ENDPOINT, event.latency_ms.total - event.latency_ms.endpoint


def delivery_ms(event: EmotionEvent, delivery: Delivery) -> Iterator[tuple[str, float]]:
    """Likewise of what followed `total`: until a final event was on disk, and until its broker acknowledged it.

    SAVED and DELIVERY are durations from the hand-over to the publisher; ACKNOWLEDGED counts from the end of speech.
    """
    if delivery.saved_s is not None:
        yield SAVED, 1000 * delivery.saved_s
    took_ms = 1000 * delivery.acknowledged_s
    yield DELIVERY, took_ms
    yield ACKNOWLEDGED, event.latency_ms.total + took_ms


class Report:
    """A sink that remembers latencies, not events: its memory does not grow with them."""

    def __init__(self) -> None:
        self._events: Counter[str] = Counter()
        stages = (*Latency.model_fields, AFTER_ENDPOINT, SAVED, DELIVERY, ACKNOWLEDGED, PROVISIONAL)
        self._stages = {stage: LatencyHistogram() for stage in stages}

    def publish(self, event: EmotionEvent) -> None:
        self._events[event.phase] += 1
        if event.phase == "final":
            for stage, ms in stages_ms(event):
                self._stages[stage].add(ms)
        else:
            self._stages[PROVISIONAL].add(event.latency_ms.total)

    def delivered(self, event: EmotionEvent, delivery: Delivery) -> None:
        """The broker has acknowledged a final event."""
        for stage, ms in delivery_ms(event, delivery):
            self._stages[stage].add(ms)

    def summary(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """Events by phase, milliseconds by stage and percentile, and `status` as it is: ready for JSON."""
        return {
            "events": dict(self._events),
            "latency_ms": {
                stage: {
                    **{f"p{percent}": round(histogram.percentile(percent), 1) for percent in PERCENTILES},
                    "max": round(histogram.max_ms, 1),
                    "events": histogram.count,
                }
                for stage, histogram in self._measured()
            },
            "status": dict(status),
        }

    def text(self, status: Mapping[str, Any]) -> str:
        """The same for people: a table, and a line for each part of `status`."""
        return "\n".join(["", *self._table(), "", *_counted(status), ""])

    def log(self, status: Mapping[str, Any]) -> None:
        """The same as one structured line of the log."""
        log.setLevel(logging.INFO)  # asked for by name, so it is said at any log level
        log.info("report", extra=self.summary(status))

    def _table(self) -> Iterator[str]:
        phases = ", ".join(f"{count} {phase}" for phase, count in self._events.items())
        yield f"{sum(self._events.values())} events{f' ({phases})' if phases else ''}"
        names = (*(f"p{percent}" for percent in PERCENTILES), "max", "events")
        yield f"{'milliseconds':20}" + "".join(f"{name:>9}" for name in names)
        for stage, histogram in self._measured():
            values = (*map(histogram.percentile, PERCENTILES), histogram.max_ms)
            yield f"{stage:20}" + "".join(f"{ms:9.1f}" for ms in values) + f"{histogram.count:9}"

    def _measured(self) -> Iterator[tuple[str, LatencyHistogram]]:
        return ((stage, histogram) for stage, histogram in self._stages.items() if histogram.count)


def _counted(status: Mapping[str, Any]) -> Iterator[str]:
    """Sections of counters line by line, in whatever order and number they come; of several streams, one by one."""
    for section, values in _sections(status):
        if isinstance(values, Mapping):
            counters = ", ".join(f"{name} {_shown(value)}" for name, value in values.items())
            yield from textwrap.wrap(f"{section}: {counters}", _WIDTH, subsequent_indent="  ")


def _sections(status: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, values in status.items():
        if section == "streams":
            for stream, counted in values.items():
                yield from ((f"{stream} {name}", value) for name, value in counted.items())
        else:
            yield section, values


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
