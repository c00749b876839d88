"""What a soak shows: trends with their uncertainty, what was lost, a report and a plot."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy import stats

JUDGED_FROM_S = 1200.0  # a shorter time after the warm-up says nothing about an hour
BLOCKS = 12  # successive samples resemble each other; medians of long blocks hardly do
GROWTH_MAX_MB_PER_H = 1.0
DELAY_GROWTH_MAX_MS_PER_H = 50.0
# What must stay zero, wherever `status` counts it.
LOSSES = ("overruns", "dropped_utterances", "failed_utterances", "dropped", "denied")

Series = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """The process at one moment. `status` is its own answer.

    own_mb: the part of the resident memory that belongs to no file. Of files (libraries, models), the kernel takes
        pages away and reads them again as it likes; a leak shows in what is the process's own.
    """

    time_s: float
    resident_mb: float
    own_mb: float
    threads: int
    files: int
    processor_s: float
    status: dict[str, Any]


@dataclass(frozen=True)
class Delivered:
    """An event as a subscriber saw it: its own total latency, and the wall-clock age of the speech's end."""

    time_s: float
    phase: str
    total_ms: float
    age_ms: float


@dataclass(frozen=True)
class Trend:
    """A slope per hour with its 95 % interval; infinite bounds where there is too little to tell."""

    per_h: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.per_h:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


@dataclass(frozen=True)
class Findings:
    """What was measured after the warm-up, and what counts as a fault of it."""

    seconds: float
    warm_up_s: float
    events: int
    cuts: int
    exit_status: int | None  # None: it did not end when it was told to
    resident_mb: tuple[float, float]  # median of the first and of the last tenth
    resident: Trend  # MB an hour
    own_mb: tuple[float, float]
    own: Trend
    total_ms: tuple[float, float, float]  # median, 95th and 99th percentile
    age_ms: tuple[float, float, float]
    delay: Trend  # of the age, which also grows when the stream falls behind its source: ms an hour
    threads: tuple[int, int]  # fewest in the first and in the last tenth: what comes and goes is no leak
    files: tuple[int, int]
    cores: float
    status: dict[str, Any]  # the last one

    @property
    def long_enough(self) -> bool:
        """Whether trends can be judged."""
        return self.seconds - self.warm_up_s >= JUDGED_FROM_S

    @property
    def problems(self) -> list[str]:
        """What leaked, was lost or broke, in words."""
        problems = [
            f"{section} counts {name}: {counters[name]}"
            for section, counters in self.status.items()
            for name in LOSSES
            if isinstance(counters, dict) and counters.get(name)
        ]
        if self.long_enough and self.own.low > GROWTH_MAX_MB_PER_H:
            problems.append(f"memory grows: {self.own} MB/h")
        if self.long_enough and self.delay.low > DELAY_GROWTH_MAX_MS_PER_H:
            problems.append(f"the delay grows: {self.delay} ms/h")
        for name, (before, after) in (("threads", self.threads), ("open files", self.files)):
            if after > before:
                problems.append(f"{name} grew from {before} to {after}")
        if not self.cuts and self.status["source"]["lost_samples"]:
            problems.append(f"{self.status['source']['lost_samples']} samples of sound were lost")
        if np.isnan(self.total_ms[0]):
            problems.append("no final event came after the warm-up")
        if self.exit_status is None:
            problems.append("telme-stream did not end when it was told to")
        elif self.exit_status != 0:
            problems.append(f"telme-stream ended with exit status {self.exit_status}")
        return problems


def trend(times_s: Series, values: Series) -> Trend:
    """Theil and Sen's slope through the medians of up to BLOCKS blocks, with Sen's interval.

    (Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", 1968.) A block of memory that is given back
    for a minute, or a minute in which others have the cores, is no trend; least squares would follow it.
    """
    if len(values) < 3:
        return Trend(0.0, -np.inf, np.inf)
    blocks = np.array_split(np.arange(len(values)), min(BLOCKS, len(values)))
    hours = np.array([times_s[block].mean() for block in blocks]) / 3600
    fit = stats.theilslopes([np.median(values[block]) for block in blocks], hours)
    return Trend(float(fit.slope), float(fit.low_slope), float(fit.high_slope))


def examine(
    samples: Sequence[Sample], events: Sequence[Delivered], warm_up_s: float, cuts: int, exit_status: int | None
) -> Findings:
    """`samples`: at least one from after the warm-up."""
    began = samples[0].time_s
    warm = [sample for sample in samples if sample.time_s - began >= warm_up_s]
    finals = [event for event in events if event.phase == "final" and event.time_s - began >= warm_up_s]
    tenth = max(1, len(warm) // 10)
    first, last = warm[:tenth], warm[-tenth:]
    return Findings(
        seconds=samples[-1].time_s - began,
        warm_up_s=warm_up_s,
        events=len(events),
        cuts=cuts,
        exit_status=exit_status,
        resident_mb=(_median(s.resident_mb for s in first), _median(s.resident_mb for s in last)),
        resident=trend(_series(s.time_s for s in warm), _series(s.resident_mb for s in warm)),
        own_mb=(_median(s.own_mb for s in first), _median(s.own_mb for s in last)),
        own=trend(_series(s.time_s for s in warm), _series(s.own_mb for s in warm)),
        total_ms=_percentiles([event.total_ms for event in finals]),
        age_ms=_percentiles([event.age_ms for event in finals]),
        delay=trend(_series(e.time_s for e in finals), _series(e.age_ms for e in finals)),
        threads=(min(s.threads for s in first), min(s.threads for s in last)),
        files=(min(s.files for s in first), min(s.files for s in last)),
        cores=(samples[-1].processor_s - samples[0].processor_s) / max(1e-9, samples[-1].time_s - began),
        status=samples[-1].status,
    )


def write(folder: Path, findings: Findings, samples: Sequence[Sample], events: Sequence[Delivered]) -> None:
    """report.md and soak.png in `folder`."""
    _plot(findings, samples, events).savefig(folder / "soak.png", dpi=100)
    (folder / "report.md").write_text(_markdown(findings))


def _markdown(found: Findings) -> str:
    rows = [
        ("time", f"{found.seconds / 60:.1f} min, the first {found.warm_up_s / 60:.1f} as warm-up"),
        ("events", f"{found.events}"),
        ("cuts of the source", f"{found.cuts}"),
        ("resident memory, after warm-up → end", "{:.1f} → {:.1f} MB".format(*found.resident_mb)),
        ("its growth, MB/h (95 % interval)", str(found.resident)),
        ("without pages of files, after warm-up → end", "{:.1f} → {:.1f} MB".format(*found.own_mb)),
        ("its growth, MB/h (95 % interval)", str(found.own)),
        ("end of speech → final event, ms: median, p95, p99", "{:.0f}, {:.0f}, {:.0f}".format(*found.total_ms)),
        (
            "its age when the subscriber has it, by the clock on the wall",
            "{:.0f}, {:.0f}, {:.0f}".format(*found.age_ms),
        ),
        ("growth of that age, ms/h (95 % interval)", str(found.delay)),
        ("threads", "{} → {}".format(*found.threads)),
        ("open files", "{} → {}".format(*found.files)),
        ("processor", f"{found.cores:.2f} cores"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    counted = "\n".join(f"| {name} | {value} |" for name, value in found.status.items())
    verdict = "\n".join(f"- {problem}" for problem in found.problems) or "Nothing leaked, was lost or broke."
    if not found.long_enough:
        verdict += f"\n\nTrends are not judged: that takes {JUDGED_FROM_S / 60:.0f} min after the warm-up."
    return f"""# Soak

{verdict}

| | |
|---|---|
{table}

![over time](soak.png)

What `status` counted at the end:

| | |
|---|---|
{counted}
"""


def _plot(found: Findings, samples: Sequence[Sample], events: Sequence[Delivered]) -> Figure:
    figure = Figure(figsize=(9, 9), layout="constrained")
    memory, delay, counts, processor = figure.subplots(4, 1, sharex=True)
    began = samples[0].time_s
    minutes = [(sample.time_s - began) / 60 for sample in samples]
    memory.plot(minutes, [sample.resident_mb for sample in samples], label="resident")
    memory.plot(minutes, [sample.own_mb for sample in samples], label=f"without files: {found.own} MB/h")
    memory.set_ylabel("memory, MB")
    memory.legend(loc="lower right")
    finals = [event for event in events if event.phase == "final"]
    when = [(event.time_s - began) / 60 for event in finals]
    delay.plot(when, [event.total_ms for event in finals], ".", markersize=3, label="total")
    delay.plot(when, [event.age_ms for event in finals], ".", markersize=3, label="age at the subscriber")
    delay.set_ylabel("final event, ms\nafter speech")
    delay.legend(loc="upper left")
    counts.plot(minutes, [sample.threads for sample in samples], label="threads")
    counts.plot(minutes, [sample.files for sample in samples], label="open files")
    counts.legend(loc="upper left")
    spent = [
        (after.processor_s - before.processor_s) / (after.time_s - before.time_s) for before, after in pairwise(samples)
    ]
    processor.plot(minutes[1:], spent, linewidth=0.7)
    processor.set_ylabel("cores")
    processor.set_xlabel("minutes")
    for axes in (memory, delay, counts, processor):
        axes.axvspan(0, found.warm_up_s / 60, color="0.93")
    return figure


def _series(values: Iterable[float]) -> Series:
    return np.array(list(values), np.float64)


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    if not values:
        return np.nan, np.nan, np.nan
    median, high, highest = np.percentile(values, [50, 95, 99])
    return float(median), float(high), float(highest)
