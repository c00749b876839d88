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


def bootstrap_interval(
    counts: Counts,
    metric: Callable[[Counts], float] = weighted_f1,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a metric under resampling of the items.

    Resampling n items is drawing n cells of the confusion matrix, so that one multinomial draw is one resample.
    Items of one dialogue count as independent, which makes the interval a little narrow.
    """
    n = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=resamples)
    values = [metric(draw.reshape(counts.shape)) for draw in draws]
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


def expected_calibration_error(probabilities: Floats, labels: Ints, bins: int = 15) -> float:
    """Mean distance of confidence from accuracy, over equally wide bins of confidence (Guo et al., ICML 2017).

    probabilities: (N, C); labels: (N,). In [0, 1].
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(places, right.astype(float) - confidence, minlength=bins)  # sum of (right - confidence)
    return float(np.abs(gaps).sum() / len(labels))


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
    """A classifier's results on one set of data."""

    labels: tuple[str, ...]
    counts: Counts
    logits: Floats
    truth: Ints

    @classmethod
    def of(cls, logits: Floats, truth: Ints, labels: Sequence[str]) -> "Evaluation":
        """logits: (N, C); truth: (N,), indices into `labels`."""
        return cls(tuple(labels), confusion(truth, logits.argmax(axis=1), len(labels)), logits, truth)

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
