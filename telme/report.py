"""The figures of an evaluation: as JSON, and as tables for a terminal."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Group
from rich.table import Table
from rich.text import Text

from telme.evaluation import Difference, accuracy, bootstrap_class_f1, bootstrap_interval, macro_f1, weighted_f1
from telme.predictions import Predictions

FEW_GROUPS = 20  # fewer do not show how much groups differ
FEW_GROUPS_NOTE = f"† fewer than {FEW_GROUPS} groups: the interval is usually too narrow"

Interval = tuple[float, float]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassFigures(_Model):
    """How well one emotion is told. precision, recall, f1: in [0, 1]; 0 where nothing is to be divided."""

    label: str
    items: int
    precision: float
    recall: float
    f1: float
    f1_interval: Interval


class _Resampled(_Model):
    """Items, and the groups that intervals come from."""

    items: int
    groups: int
    grouped_by: str

    @property
    def resampled(self) -> str:
        """Such as "280 dialogues"."""
        return "items" if self.grouped_by == "item" else f"{self.groups} {self.grouped_by}s"

    @property
    def few_groups(self) -> bool:
        return self.groups < FEW_GROUPS


class Figures(_Resampled):
    """How good one set of predictions is. Intervals hold 95 %, from resampling the groups."""

    name: str
    part: str
    inputs: str
    data: str
    note: str
    weighted_f1: float
    weighted_f1_interval: Interval
    macro_f1: float
    accuracy: float
    accuracy_interval: Interval
    temperature: float
    calibration_error_before: float = Field(description="expected calibration error of the logits as they are")
    calibration_error: float = Field(description="the same after division by the temperature")
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...] = Field(description="row: what it is; column: what was said")

    @property
    def title(self) -> str:
        return self.part if self.part == self.inputs else f"{self.part}: {self.inputs}"

    @classmethod
    def of(cls, predictions: Predictions) -> Self:
        heading, evaluation = predictions.heading, predictions.evaluation
        counts, resampled = evaluation.counts, predictions.resampled_counts()
        f1_low, f1_high = bootstrap_class_f1(resampled)
        metrics = evaluation.metrics()
        classes = tuple(
            ClassFigures(
                label=label,
                items=int(counts[place].sum()),
                precision=float(counts[place, place] / max(1, counts[:, place].sum())),
                recall=float(counts[place, place] / max(1, counts[place].sum())),
                f1=metrics[f"f1_{label}"],
                f1_interval=(f1_low[place], f1_high[place]),
            )
            for place, label in enumerate(heading.labels)
        )
        return cls(
            **heading.model_dump(include={"name", "part", "inputs", "data", "note", "grouped_by", "temperature"}),
            items=len(predictions.ids),
            groups=len(set(predictions.groups)),
            weighted_f1=weighted_f1(counts),
            weighted_f1_interval=bootstrap_interval(resampled),
            macro_f1=macro_f1(counts),
            accuracy=accuracy(counts),
            accuracy_interval=bootstrap_interval(resampled, accuracy),
            calibration_error_before=evaluation.calibration_error(),
            calibration_error=evaluation.calibration_error(heading.temperature),
            classes=classes,
            confusion=tuple(tuple(row) for row in counts.tolist()),
        )


class Source(_Model):
    """Where a part comes from."""

    config: str
    seed: int
    commit: str


class Report(_Model):
    """Everything that was measured of one run."""

    schema_version: Literal["telme.evaluation/1"] = "telme.evaluation/1"
    parts: dict[str, Source]
    results: tuple[Figures, ...]


class Comparison(_Resampled):
    """How much better the second of two runs is."""

    name: str
    first_weighted_f1: float
    second_weighted_f1: float
    difference: float
    interval: Interval
    p_value: float | None = Field(description="none of fewer than FEW_GROUPS groups, which allow no small one")

    @classmethod
    def of(cls, name: str, first: Predictions, second: Predictions, difference: Difference) -> Self:
        groups = len(set(first.groups))
        few = groups < FEW_GROUPS
        return cls(
            name=name,
            items=len(first.ids),
            groups=groups,
            grouped_by=first.heading.grouped_by,
            first_weighted_f1=weighted_f1(first.evaluation.counts),
            second_weighted_f1=weighted_f1(second.evaluation.counts),
            difference=difference.value,
            interval=difference.interval,
            p_value=None if few else difference.p_value,
        )


def tables(results: Sequence[Figures]) -> Group:
    """Two tables, all figures and F1 by emotion, with the notes that they need below."""
    notes = list(dict.fromkeys(result.note for result in results if result.note))
    marks = {note: " " + "*" * (place + 1) for place, note in enumerate(notes)}
    overall = Table(title="Test scores, with 95 % intervals")
    for name in ("part", "inputs", "data"):
        overall.add_column(name, no_wrap=True)
    for name in ("items", "resampled", "weighted F1", "macro F1", "accuracy", "calibration error"):
        overall.add_column(name, justify="right", no_wrap=name != "calibration error")
    by_emotion = Table(title="F1 by emotion")
    for name in ("part", "inputs", "data"):
        by_emotion.add_column(name, no_wrap=True)
    for label in [figures.label for figures in results[0].classes]:
        by_emotion.add_column(label, justify="right")
    for result in results:
        what = (result.part, result.inputs + marks.get(result.note, ""), result.data)
        overall.add_row(
            *what,
            f"{result.items:,}",
            _resampled(result),
            _with_interval(result.weighted_f1, result.weighted_f1_interval),
            f"{result.macro_f1:.3f}",
            _with_interval(result.accuracy, result.accuracy_interval),
            _calibration(result),
        )
        by_emotion.add_row(*what, *(f"{one.f1:.2f}" if one.items else "-" for one in result.classes))
    below = [f"{marks[note].strip()} {note}" for note in notes]
    if any(result.few_groups for result in results):
        below.append(FEW_GROUPS_NOTE)
    below.append("calibration error: expected, before → after division by the temperature where there is one")
    if any(not one.items for result in results for one in result.classes):
        below.append("- no item has this emotion; macro F1 counts it as 0")
    return Group(overall, by_emotion, Text("\n".join(below)))


def comparison_table(comparisons: Sequence[Comparison], first: str, second: str) -> Table:
    """Weighted F1 of both runs, called `first` and `second`, and their difference."""
    notes = [f"{FEW_GROUPS_NOTE}, and tells no p"] * any(one.few_groups for one in comparisons)
    caption = "\n".join((f"A: {first}", f"B: {second}", *notes))
    table = Table(title="Weighted F1, paired bootstrap over the same items", caption=caption)
    table.add_column("predictions", no_wrap=True)
    for name in ("items", "resampled", "A", "B", "B - A [95 %]", "p"):
        table.add_column(name, justify="right")
    for one in comparisons:
        low, high = one.interval
        table.add_row(
            one.name,
            f"{one.items:,}",
            _resampled(one),
            f"{one.first_weighted_f1:.3f}",
            f"{one.second_weighted_f1:.3f}",
            f"{one.difference:+.3f} [{low:+.3f}, {high:+.3f}]",
            "-" if one.p_value is None else f"{one.p_value:.3f}",
        )
    return table


def _resampled(one: _Resampled) -> str:
    return one.resampled + " †" * one.few_groups


def _calibration(result: Figures) -> str:
    after = f"{result.calibration_error:.3f}"
    return after if result.temperature == 1 else f"{result.calibration_error_before:.3f} → {after}"


def _with_interval(value: float, interval: Interval) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
