"""The live bench: what it concludes from events and reports, and a short one for real."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import live
import pytest
from emotion_events import emotion_event
from live import ACKNOWLEDGED, SEEN, Measured, promises
from rich.console import Console
from streams import environment

BENCH = Path(__file__).parents[1] / "bench" / "live.py"
JFK = Path(__file__).with_name("data") / "jfk.flac"
HANGOVER_MS = 512.0


def event(seen_ms: float, phase: str = "final") -> dict[str, Any]:
    """As the bench reads it, so long after the end of speech; its own total is 600 ms."""
    told = emotion_event(1, phase=phase).model_dump(mode="json", by_alias=True)
    told["latency_ms"]["transcription"] = 100.0
    return told | {"seen_ms": seen_ms}


def report(lost_samples: int = 0, **stages: dict[str, float]) -> dict[str, Any]:
    status = {
        "source": {"lost_samples": lost_samples, "overruns": 0},
        "pipeline": {"dropped_utterances": 0, "failed_utterances": 0},
        "loop_lag_ms": {"p99": 4.0, "max": 9.0},
    }
    return {"status": status, "latency_ms": stages}


def judged(way: Measured, *, over_corpora: bool = False) -> list[str]:
    return list(promises(way, HANGOVER_MS, over_corpora=over_corpora))


def test_delay_is_judged_by_what_a_reader_sees() -> None:
    way = Measured("default", (), [event(580), event(580), event(1000), event(700, "provisional")], [report()])
    assert judged(way) == [
        "met     end of speech → final event is read, p50: 580 ms, at most 612 ms",
        "missed  end of speech → final event is read, p95: 958 ms, at most 912 ms",
        "missed  pause → provisional event is read, median: 700 ms, at most 500 ms",
        "met     event loop lag, p99: 4 ms, at most 20 ms",
        "met     lost sound and utterances: none",
    ]


def test_where_there_is_a_broker_its_word_counts_too_in_the_worst_run() -> None:
    runs = [report(acknowledged={"p50": p50, "p95": 700.0, "events": 1}) for p50 in (590.0, 620.0)]
    way = Measured("default", (), [event(580), event(580)], runs)
    assert way.delays()[ACKNOWLEDGED].events == way.delays()[SEEN].events == 2
    assert judged(way)[2:4] == [
        "missed  end of speech → final event is acknowledged (worst run), p50: 620 ms, at most 612 ms",
        "met     end of speech → final event is acknowledged (worst run), p95: 700 ms, at most 912 ms",
    ]


def test_what_any_run_lost_breaks_a_promise() -> None:
    way = Measured("default", (), [event(580)], [report(), report(lost_samples=3), report(lost_samples=4)])
    assert "missed  lost sound and utterances: source.lost_samples 7" in judged(way)


@pytest.mark.parametrize(("count", "verdict"), [(99, "missed"), (100, "met   ")])
def test_over_corpora_enough_utterances_are_promised(count: int, verdict: str) -> None:
    way = Measured("default", (), [event(580)] * count, [report()])
    assert f"{verdict}  utterances measured: {count}, at least 100" in judged(way, over_corpora=True)
    assert not any("utterances measured" in line for line in judged(way))


def test_the_other_way_is_told_in_ratios_of_what_is_read_and_acknowledged() -> None:
    default = Measured("default", (), [event(500)], [report(acknowledged={"p50": 500, "p95": 500, "events": 1})])
    straight = Measured("straight", (), [event(750)], [report(acknowledged={"p50": 800, "p95": 900, "events": 1})])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(live._table([default, straight], "1 utterance"))
    rows = {cells[0]: cells[1:] for line in console.export_text().splitlines() if (cells := _cells(line))}
    assert rows[SEEN] == ["500", "500", "1", "750", "750", "1", "1.50", "1.50"]
    assert rows[ACKNOWLEDGED] == ["500", "500", "1", "800", "900", "1", "1.60", "1.80"]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")] if line.startswith("│") else []


@pytest.mark.slow
def test_a_short_one_for_real() -> None:
    command = [sys.executable, BENCH, "--media", JFK, "--repeats", "1", "--"]
    embedded = ["--broker", "embedded", "--set", "mqtt.broker_port=0"]
    ended = subprocess.run([*command, *embedded], capture_output=True, text=True, timeout=120, env=environment())
    assert ended.returncode == 0, ended.stderr
    rows = {cells[0]: cells[1:] for line in ended.stdout.splitlines() if (cells := _cells(line))}
    assert rows[ACKNOWLEDGED][-1] == rows[SEEN][-1] != "0"
    assert "met     lost sound and utterances: none" in ended.stdout
