"""Pictures of an evaluation: what is taken for what, whether confidence can be believed, and how sure figures are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from telme.evaluation import Floats, Reliability, reliability, softmax
from telme.predictions import Predictions
from telme.report import FEW_GROUPS_NOTE, Figures

DPI = 100
PREDICTIONS_PX = (2000, 720)
OVERVIEW_PX = (1400, 720)

_BEFORE, _AFTER, _BARS, _ERRORS = "#b8b8b8", "#1f6f8b", "#5aa9a3", "#333333"


def draw_predictions(predictions: Predictions, figures: Figures, path: Path) -> None:
    """One PNG of PREDICTIONS_PX: confusion matrix, reliability diagram and F1 by emotion, side by side.

    figures: of the same predictions.
    """
    figure = _figure(PREDICTIONS_PX)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
    _confusion(left, figures)
    _reliability(middle, predictions)
    _classes(right, figures)
    what = f"{figures.title}, {figures.data}, {figures.items:,} items"
    score = f"weighted F1 {figures.weighted_f1:.3f}, accuracy {figures.accuracy:.3f}"
    figure.suptitle(f"{what}\n{score}" + (f"\n{figures.note}" if figures.note else ""), fontsize=13)
    figure.savefig(path)


def draw_overview(results: Sequence[Figures], path: Path) -> None:
    """One PNG of OVERVIEW_PX: weighted F1 of everything, with intervals."""
    figure = _figure(OVERVIEW_PX)
    axes = figure.subplots()
    places = np.arange(len(results))[::-1]
    values = np.array([result.weighted_f1 for result in results])
    ends = np.array([result.weighted_f1_interval for result in results])
    colours = [_AFTER if result.part in ("fusion", "students") else _BARS for result in results]
    axes.barh(places, values, color=colours, xerr=_distances(values, ends), ecolor=_ERRORS, capsize=3)
    notes = list(dict.fromkeys(result.note for result in results if result.note))
    marks = {note: "*" * (place + 1) for place, note in enumerate(notes)}
    names = [
        f"{result.title}{marks.get(result.note, '')}{'†' * result.few_groups}, {result.data}" for result in results
    ]
    axes.set_yticks(places, names)
    for place, value, (_, high) in zip(places, values, ends, strict=True):
        axes.text(max(value, high) + 0.012, place, f"{value:.3f}", va="center")
    axes.set_xlim(0, 1.08)
    axes.set_xticks(np.linspace(0, 1, 6))
    below = [f"{marks[note]} {note}" for note in notes] + [FEW_GROUPS_NOTE] * any(one.few_groups for one in results)
    axes.set_xlabel("\n".join(["weighted F1, with 95 % interval", *below]))
    axes.set_title("Weighted F1 of each part by itself (light) and of combinations (dark)", fontsize=12)
    axes.set_ylim(-0.7, len(results) - 0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.savefig(path)


def _figure(size_px: tuple[int, int]) -> Figure:
    width, height = size_px
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")


def _confusion(axes: Axes, figures: Figures) -> None:
    labels = [one.label for one in figures.classes]
    counts = np.array(figures.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.55 else "black"
        text = f"{shares[row, column]:.0%}\n{counts[row, column]}" if counts[row, column] else "·"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("answered")
    axes.set_ylabel("is")
    axes.set_title("What is taken for what (share of the row, and count)", fontsize=11)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def _reliability(axes: Axes, predictions: Predictions) -> None:
    axes.plot([0, 1], [0, 1], color=_ERRORS, linestyle=":", linewidth=1, label="confidence = accuracy")
    temperature = predictions.heading.temperature
    after = reliability(softmax(predictions.logits, temperature), predictions.truth)
    if temperature != 1:
        before = reliability(softmax(predictions.logits), predictions.truth)
        _curve(axes, before, _BEFORE, f"before (T = 1), error {before.error:.3f}")
        _curve(axes, after, _AFTER, f"after (T = {temperature:.2f}), error {after.error:.3f}")
    else:
        _curve(axes, after, _AFTER, f"error {after.error:.3f}")
    bins = len(after.counts)
    shares = after.counts / after.counts.sum()
    middles = (np.arange(bins) + 0.5) / bins
    axes.bar(middles, shares, width=0.9 / bins, color=_AFTER, alpha=0.2, label="share of the items")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", aspect="equal")
    axes.set_title("Can its confidence be believed?", fontsize=11)
    axes.legend(loc="lower right", fontsize=9, framealpha=0.9)


def _curve(axes: Axes, found: Reliability, colour: str, label: str) -> None:
    filled = found.counts > 0
    sizes = 12 + 200 * found.counts[filled] / found.counts.sum()
    axes.plot(found.confidence[filled], found.accuracy[filled], color=colour, linewidth=1.5, label=label)
    axes.scatter(found.confidence[filled], found.accuracy[filled], s=sizes, color=colour)


def _classes(axes: Axes, figures: Figures) -> None:
    values = np.array([one.f1 for one in figures.classes])
    ends = np.array([one.f1_interval for one in figures.classes])
    places = np.arange(len(values))[::-1]
    axes.barh(places, values, color=_BARS, xerr=_distances(values, ends), ecolor=_ERRORS, capsize=3)
    for place, one, (_, high) in zip(places, figures.classes, ends, strict=True):
        text = f"{one.f1:.2f}" if one.items else "no items"
        axes.text(max(one.f1, high) + 0.02, place, text, va="center", fontsize=9)
    axes.set_yticks(places, [f"{one.label}\n({one.items:,})" for one in figures.classes])
    axes.set(xlim=(0, 1.12), xlabel=f"F1, with 95 % interval over {'only ' * figures.few_groups}{figures.resampled}")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_title("F1 by emotion (and number of items)", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _distances(values: Floats, ends: Floats) -> Floats:
    """Error bars (2, n), lengths downwards and upwards; a skewed interval may lie on one side of its value."""
    return np.asarray(np.maximum(np.stack([values - ends[:, 0], ends[:, 1] - values]), 0))
