"""What `--report` keeps of events, and says at the end."""

import json
import logging
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from brokers import Mosquitto
from emotion_events import emotion_event, emotion_events
from hypothesis import given
from hypothesis import strategies as st
from streams import ACTED, ASR, PATIENCE_S, command, environment, expected, run, running

from streamer.events import EmotionEvent, Latency
from streamer.latency_histogram import MAX_MS, MIN_MS, RATIO, LatencyHistogram
from streamer.logs import JsonFormatter
from streamer.report import AFTER_ENDPOINT, PERCENTILES, Report

STATUS = {"paused": False, "source": {"overruns": 2, "new_counter": 7}, "mqtt": None, "loop_lag_ms": {"p99": 4.5}}


def late(total_ms: float, phase: str = "final") -> EmotionEvent:
    latency = Latency(endpoint=500, queue=0, text=20, total=500 + total_ms)
    return emotion_event(1, phase=phase).model_copy(update={"latency_ms": latency})


# The histogram


@given(st.lists(st.floats(MIN_MS, MAX_MS), min_size=1, max_size=200), st.floats(0, 100))
def test_a_percentile_is_the_exact_one_to_one_percent(values: list[float], percent: float) -> None:
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    exact = np.percentile(values, percent, method="inverted_cdf")
    assert histogram.percentile(percent) == pytest.approx(exact, rel=math.sqrt(RATIO) - 1 + 1e-9)
    assert histogram.max_ms == max(values)
    assert histogram.count == len(values)


def test_what_is_out_of_range_is_counted_at_its_end() -> None:
    histogram = LatencyHistogram()
    for value in (0.0, 1e9):
        histogram.add(value)
    assert histogram.count == 2
    assert histogram.percentile(0) <= MIN_MS * RATIO
    assert histogram.percentile(100) >= MAX_MS


def test_an_empty_histogram_has_no_percentiles() -> None:
    assert math.isnan(LatencyHistogram().percentile(50))


def test_memory_does_not_grow_with_events() -> None:
    report = Report()
    before = _size(report)
    for number in range(10_000):
        report.publish(late(number))
    assert _size(report) <= before + 200


def _size(report: Report) -> int:
    histograms = report._stages.values()
    return sum(sys.getsizeof(histogram._buckets) for histogram in histograms) + sys.getsizeof(report._events)


# The report


def test_finals_and_provisionals_are_told_apart() -> None:
    report = Report()
    for ms in range(1, 101):
        report.publish(late(ms))
    report.publish(late(5000, phase="provisional"))
    summary = report.summary(STATUS)
    assert summary["events"] == {"final": 100, "provisional": 1}
    stages = summary["latency_ms"]
    assert list(stages) == ["endpoint", "queue", "text", "total", AFTER_ENDPOINT, "provisional_total"]
    assert [stages[AFTER_ENDPOINT][f"p{p}"] for p in PERCENTILES] == pytest.approx([50, 95, 99], rel=0.02)
    assert stages["total"]["max"] == 600
    assert stages["provisional_total"]["events"] == 1


def test_whatever_the_status_counts_is_told() -> None:
    text = Report().text(STATUS)
    assert "source: overruns 2, new_counter 7" in text
    assert "loop_lag_ms: p99 4.5" in text
    assert "0 events" in text


def test_the_counters_of_several_streams_stand_under_their_names() -> None:
    text = Report().text({"streams": {"kitchen": {"source": {"overruns": 2}}, "hall": {"source": {"overruns": 0}}}})
    assert "kitchen source: overruns 2" in text
    assert "hall source: overruns 0" in text


@given(st.lists(emotion_events, max_size=5))
def test_any_events_can_be_reported_in_80_columns_and_as_json(events: list[EmotionEvent]) -> None:
    report = Report()
    for event in events:
        report.publish(event)
    assert all(len(line) <= 80 for line in report.text(STATUS).splitlines())
    assert json.loads(json.dumps(report.summary(STATUS), allow_nan=False))["status"]["source"]["overruns"] == 2


def test_in_the_log_the_report_is_one_line_of_json_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    report = Report()
    report.publish(late(100))
    root = logging.getLogger()
    usual = root.level
    root.setLevel(logging.ERROR)
    try:
        report.log(STATUS)
    finally:
        root.setLevel(usual)
    line = json.loads(JsonFormatter().format(caplog.records[-1]))
    assert line["message"] == "report"
    assert line["latency_ms"]["total"]["p50"] == pytest.approx(600, rel=0.01)
    assert line["status"] == STATUS


@pytest.mark.slow
def test_a_stream_reports_at_its_end_beside_pure_json_lines() -> None:
    count = len(expected(ACTED))
    for_people = run("--media", ACTED, "--fast", "--report", "--log-level", "error")
    assert len(for_people.events) == count
    assert re.search(rf"\b{count} final\b", for_people.log)  # beside provisional ones, as many as there was time for
    assert "transcription" in for_people.log
    assert "dropped_utterances 0" in for_people.log
    for_programs = run("--media", ACTED, "--fast", "--report", "--log-level", "error", "--log-format", "json")
    (line,) = map(json.loads, for_programs.log.splitlines())
    assert line["latency_ms"]["total"]["events"] == len(for_programs.events) == count
    assert line["status"]["pipeline"]["events"] == count
    assert not {"saved", "delivery", "acknowledged"} & line["latency_ms"].keys(), "there is no broker"


@pytest.mark.slow
def test_what_is_told_at_the_end_holds_what_was_given_up_while_leaving(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """The broker takes the connection and then nothing more."""
    flags = ("--media", ACTED, "--fast", "--mqtt", mosquitto.url, "--set", "mqtt.flush_s=0.2", "--report")
    with running(tmp_path, *flags, "--log-format", "json") as stream:
        stream.wait_for_log("connected to")
        mosquitto.send(signal.SIGSTOP)
        assert stream.process.wait(PATIENCE_S) == 0
    told = {line["message"]: line for line in map(json.loads, stream.log.splitlines())}
    events = told["stream ended"]["pipeline"]["events"]
    assert events > 0
    for delivery in (told["stream ended"]["mqtt"], told["report"]["status"]["mqtt"]):
        assert (delivery["waiting"], delivery["dropped"], delivery["published"]) == (0, events, 0)
    assert "acknowledged" not in told["report"]["latency_ms"]


@pytest.mark.slow
def test_people_are_told_beside_the_live_view() -> None:
    shown = subprocess.run(
        command("--asr", ASR, "--media", ACTED, "--fast", "--report", "--broker", "embedded"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(),
    )
    assert shown.returncode == 0, shown.stderr
    assert "pipeline: utterances" in shown.stdout
    assert re.search(rf"^acknowledged .* {len(expected(ACTED))}$", shown.stdout, re.MULTILINE)
