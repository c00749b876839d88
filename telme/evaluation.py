"""How good predictions are: F1 scores, calibration, and how sure we can be of either."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Counts = npt.NDArray[np.int64]
Ints = npt.NDArray[np.integer]


def confusion(labels: Ints, predictions: Ints, classes: int) -> Counts:
    """Counts (C, C): how often class `row` was called class `column`."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def accuracy(counts: Counts) -> float:
    """Share of items on the diagonal of a confusion matrix."""
    return float(np.trace(counts) / counts.sum())


def class_f1(counts: Counts) -> npt.NDArray[np.float64]:
    """F1 of each class (C,): 2 TP / (2 TP + FP + FN), and 0 for a class that neither occurs nor is predicted."""
    twice = 2.0 * np.diagonal(counts)
    total = counts.sum(0) + counts.sum(1)
    f1 = np.zeros(len(counts))
    np.divide(twice, total, out=f1, where=total > 0)
    return f1


def macro_f1(counts: Counts) -> float:
    """Mean F1 over classes, each weighing the same."""
    return float(class_f1(counts).mean())


def weighted_f1(counts: Counts) -> float:
    """Mean F1 over classes, each weighing as many items as it has: the usual score on MELD and IEMOCAP."""
    return float(class_f1(counts) @ counts.sum(1) / counts.sum())


def grouped_confusion(labels: Ints, predictions: Ints, groups: Sequence[str], classes: int) -> Counts:
    """One confusion matrix per group, (G, C, C), in the order of the groups' names; their sum is everybody's.

    groups: (N,), whatever makes items depend on each other, such as their dialogue or their speaker.
    """
    names, places = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((len(names), classes, classes), np.int64)
    np.add.at(counts, (places, labels, predictions), 1)
    return counts


def resample(counts: Counts, resamples: int = 2000, seed: int = 0) -> Counts:
    """Confusion matrices (R, C, C) of bootstrap samples.

    counts: (C, C), and items are resampled; or (G, C, C), and whole groups are, which is right where the items of a
    group resemble each other (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
    Groups in the same order and the same seed give the same draws, whatever the counts.
    """
    random = np.random.default_rng(seed)
    if counts.ndim == 2:  # drawing n items is drawing n cells
        n = int(counts.sum())
        return random.multinomial(n, counts.ravel() / n, size=resamples).reshape(resamples, *counts.shape)
    size = len(counts)
    times = random.multinomial(size, np.full(size, 1 / size), size=resamples)  # how often each group was drawn
    draws = times.astype(np.float64) @ counts.reshape(size, -1)  # exact, and far faster than in integers
    return np.asarray(draws.reshape(resamples, *counts.shape[1:]), np.int64)


def bootstrap_interval(
    counts: Counts,
    metric: Callable[[Counts], float] = weighted_f1,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a metric of confusion matrices; counts: as `resample` takes them."""
    values = [metric(draw) for draw in resample(counts, resamples, seed)]
    return _percentiles(values, level)


def bootstrap_class_f1(counts: Counts, level: float = 0.95) -> npt.NDArray[np.float64]:
    """Percentile interval of each class's F1, (2, C): low ends, then high ends; counts: as `resample` takes them."""
    values = np.stack([class_f1(draw) for draw in resample(counts)])
    return np.asarray(np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0))


@dataclass(frozen=True)
class Difference:
    """How much better the second of two classifiers is on the same items.

    interval: where the difference lies with 95 % confidence.
    p_value: how likely one at least as far from 0 is when there is none, in (0, 1].
    """

    value: float
    interval: tuple[float, float]
    p_value: float


def paired_bootstrap(
    first: Counts,
    second: Counts,
    metric: Callable[[Counts], float] = weighted_f1,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """metric(second) - metric(first), resampling the same groups for both (Koehn, EMNLP 2004).

    first, second: (G, C, C), of the same groups in the same order. Raises ValueError where their labels differ.
    The p-value is two-sided: twice the share of resamples on the other side of 0, where one more is counted, so that
    it is never 0.
    """
    if first.shape != second.shape or (first.sum(2) != second.sum(2)).any():
        raise ValueError("a paired comparison needs the same groups")
    value = metric(second.sum(0)) - metric(first.sum(0))
    draws = zip(resample(first, resamples, seed), resample(second, resamples, seed), strict=True)
    differences = np.array([metric(b) - metric(a) for a, b in draws])
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return Difference(value, _percentiles(differences, 0.95), min(1.0, 2 * float(tail + 1) / (resamples + 1)))


def _percentiles(values: Sequence[float] | npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def softmax(logits: Floats, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Probabilities (N, C) of logits (N, C) divided by a temperature."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def negative_log_likelihood(logits: Floats, labels: Ints, temperature: float = 1.0) -> float:
    """Mean of -log p(label), in nats."""
    p = softmax(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(p, np.finfo(np.float64).tiny)).mean())


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, over B equally wide bins of confidence.

    counts: (B,), items. confidence, accuracy: (B,), means; 0 where there is no item.
    """

    counts: Counts
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of confidence from accuracy over the items, in [0, 1]."""
        return float(self.counts @ np.abs(self.accuracy - self.confidence) / self.counts.sum())


def reliability(probabilities: Floats, labels: Ints, bins: int = 15) -> Reliability:
    """What a reliability diagram shows (Guo et al., ICML 2017). probabilities: (N, C); labels: (N,)."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(places, minlength=bins)
    sizes = np.maximum(counts, 1)
    return Reliability(
        counts,
        np.bincount(places, confidence, minlength=bins) / sizes,
        np.bincount(places, right, minlength=bins) / sizes,
    )


def expected_calibration_error(probabilities: Floats, labels: Ints, bins: int = 15) -> float:
    """Mean distance of confidence from accuracy, over equally wide bins of confidence (Guo et al., ICML 2017).

    probabilities: (N, C); labels: (N,). In [0, 1].
    """
    return reliability(probabilities, labels, bins).error


def fit_temperature(logits: Floats, labels: Ints, smallest: float = 0.05, largest: float = 20.0) -> float:
    """The temperature with the lowest negative log-likelihood on held-out data (Guo et al., ICML 2017).

    The likelihood is convex in b = 1/T, with the slope mean(E_p[z] - z_label), p = softmax(b z): bisection finds its
    root. Data on which the slope never changes its sign, such as faultless predictions, give a bound of the range.
    """
    z = np.asarray(logits, np.float64)
    low, high = 1 / largest, 1 / smallest
    for _ in range(60):
        b = (low + high) / 2
        expected = (softmax(z, 1 / b) * z).sum(axis=1)
        if (expected - z[np.arange(len(labels)), labels]).mean() > 0:
            high = b
        else:
            low = b
    return 2 / (low + high)


@dataclass(frozen=True)
class Evaluation:
    """A classifier's results on one set of data.

    groups: what each item's dialogue or speaker is called; none where items do not depend on each other.
    """

    labels: tuple[str, ...]
    counts: Counts
    logits: Floats
    truth: Ints
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, logits: Floats, truth: Ints, labels: Sequence[str], groups: Sequence[str] = ()) -> "Evaluation":
        """logits: (N, C); truth: (N,), indices into `labels`; groups: (N,) or none."""
        counts = confusion(truth, logits.argmax(axis=1), len(labels))
        return cls(tuple(labels), counts, logits, truth, tuple(groups))

    def metrics(self) -> dict[str, float]:
        """Every figure by name; `f1_<label>` for the classes."""
        return {
            "weighted_f1": weighted_f1(self.counts),
            "macro_f1": macro_f1(self.counts),
            "accuracy": accuracy(self.counts),
            "nll": negative_log_likelihood(self.logits, self.truth),
            **{f"f1_{label}": float(f1) for label, f1 in zip(self.labels, class_f1(self.counts), strict=True)},
        }

    def calibration_error(self, temperature: float = 1.0) -> float:
        return expected_calibration_error(softmax(self.logits, temperature), self.truth)

    def resampled_counts(self) -> Counts:
        """Confusion matrices as `resample` takes them: of groups, or of all items where there are none."""
        return self.grouped_counts(self.groups) if self.groups else self.counts

    def grouped_counts(self, groups: Sequence[str]) -> Counts:
        """One confusion matrix per group, (G, C, C); groups: (N,)."""
        return grouped_confusion(self.truth, self.logits.argmax(axis=1), groups, len(self.labels))
