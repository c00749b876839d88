"""Metrics, scraped over HTTP as Prometheus does."""

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from brokers import free_port
from emotion_events import emotion_event
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from streams import CONVERSATION, running

from streamer import metrics as module
from streamer.http_server import HttpServer
from streamer.metrics import SHARED, Metrics, numbers

Samples = dict[tuple[str, ...], float]

STATUS: dict[str, Any] = {
    "paused": False,
    "dialogue_turns": 3,
    "pipeline": {"events": 7, "new_counter": 2},
    "mqtt": {"connected": True, "waiting": 4, "outbox": "memory"},
    "deeper": {"down": {"below": 1}},
    "missing": None,
    "loop_lag_ms": {"p99": 1.5},
}


# Of what a running stream says, all that can fall; everything else counts since the start.
LEVELS = {
    "telme_health_live",
    "telme_paused",
    "telme_speaking",
    "telme_dialogue_turns",
    "telme_speakers_people",
    "telme_mqtt_connected",
    "telme_mqtt_waiting",
    "telme_mqtt_unsaved",
    "telme_loop_lag_ms_p99",
    "telme_loop_lag_ms_max",
}


def kinds(url: str) -> dict[str, str]:
    """Of the metrics that tell what the status says, by their names."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {family.name: family.type for family in families if " of the status." in family.documentation}


def scrape(url: str) -> Samples:
    """By name and label values, in the order of the labels' names."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
            for family in families
            for sample in family.samples
        }


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Metrics, str]]:
    """Metrics, and where they are."""
    metrics = Metrics()
    async with HttpServer("127.0.0.1", 0, {"/metrics": metrics.page}) as server:
        yield metrics, f"{server.url}/metrics"


async def test_events_become_histograms_and_the_status_counters_and_gauges() -> None:
    async with served() as (metrics, url):
        metrics.publish(emotion_event(1))
        metrics.publish(emotion_event(2))
        metrics.publish(emotion_event(3, phase="provisional"))
        before = await asyncio.to_thread(scrape, url)
        metrics.ask(lambda: STATUS, "main")
        after = await asyncio.to_thread(scrape, url)
    assert before["telme_events_total", "final", "main"] == 2
    assert before["telme_events_total", "provisional", "main"] == 1
    assert before["telme_final_latency_seconds_count", "total", "main"] == 2
    assert before["telme_final_latency_seconds_sum", "total", "main"] == pytest.approx(1.2)
    assert before["telme_final_latency_seconds_bucket", "0.6", "total", "main"] == 2
    assert before["telme_final_latency_seconds_bucket", "0.5", "total", "main"] == 0
    assert before["telme_final_latency_seconds_sum", "after_endpoint", "main"] == pytest.approx(0.2)
    assert before["telme_provisional_latency_seconds_count", "total", "main"] == 1
    assert not any("telme_pipeline" in name for name, *_ in before)
    assert after["telme_pipeline_events_total", "main"] == 7
    assert after["telme_pipeline_new_counter_total", "main"] == 2
    assert after["telme_mqtt_waiting", "main"] == 4
    assert after["telme_mqtt_connected", "main"] == 1
    assert after["telme_dialogue_turns", "main"] == 3
    assert after["telme_loop_lag_ms_p99", "main"] == 1.5
    assert after["telme_deeper_down_below_total", "main"] == 1
    assert not any(name.startswith("telme_") for name in REGISTRY._names_to_collectors)


async def test_several_streams_have_labels_of_their_own_and_what_they_share_has_none() -> None:
    streams = {"kitchen": {"pipeline": {"events": 7}}, "hall": {"pipeline": {"events": 2}, "paused": True}}
    async with served() as (metrics, url):
        metrics.ask(lambda: {"streams": streams, "mqtt": {"waiting": 4}}, SHARED)
        samples = await asyncio.to_thread(scrape, url)
    assert {key: value for key, value in samples.items() if not key[0].endswith("_created")} == {
        ("telme_pipeline_events_total", "kitchen"): 7,
        ("telme_pipeline_events_total", "hall"): 2,
        ("telme_paused", "hall"): 1,
        ("telme_mqtt_waiting", ""): 4,
    }


def test_words_and_what_is_missing_are_no_numbers() -> None:
    found: Mapping[tuple[str, ...], float] = dict(numbers(STATUS))
    assert ("mqtt", "outbox") not in found
    assert ("missing",) not in found
    assert len(found) == 8


async def test_a_loop_that_does_not_answer_costs_the_status_not_the_rest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def block() -> dict[str, Any]:
        time.sleep(1.0)
        return STATUS

    monkeypatch.setattr(module, "ANSWER_S", 0.1)
    async with served() as (metrics, url):
        metrics.publish(emotion_event(1))
        metrics.ask(block, "main")
        samples = await asyncio.to_thread(scrape, url)
    assert samples["telme_events_total", "final", "main"] == 1
    assert not any(name.startswith("telme_pipeline") for name, *_ in samples)
    assert "no status for a scrape" in caplog.text


@pytest.mark.slow
def test_a_running_stream_can_be_scraped(tmp_path: Path) -> None:
    port = free_port()
    flags = (
        "--media",
        CONVERSATION,
        "--metrics",
        str(port),
        "--stream",
        "cam",
        "--log-format",
        "json",
        "--broker",
        "embedded",
    )
    with running(tmp_path, *flags) as stream:
        stream.wait_for_log("metrics at")
        url = f"http://127.0.0.1:{port}/metrics"
        samples = scrape(url)
        while samples.get(("telme_final_latency_seconds_count", "acknowledged", "cam"), 0) < 2:
            assert stream.process.poll() is None, stream.log
            time.sleep(0.2)
            samples = scrape(url)
        told = kinds(url)
        assert stream.stop() == 0
    assert {name for name, kind in told.items() if kind == "gauge"} == LEVELS
    assert {kind for name, kind in told.items() if name not in LEVELS} == {"counter"}
    ended = json.loads(next(line for line in stream.log.splitlines() if "stream ended" in line))
    assert 2 <= samples["telme_pipeline_events_total", "cam"] <= ended["pipeline"]["events"]
    assert samples["telme_final_latency_seconds_count", "transcription", "cam"] >= 2
    assert samples["telme_final_latency_seconds_sum", "total", "cam"] > 1.0, "two hangovers at least"
    assert samples["telme_events_total", "final", "cam"] >= 2
    assert samples["telme_source_lost_samples_total", "cam"] == 0
    assert samples["telme_pictures_seen_total", "cam"] > 0
