"""Scores against scikit-learn's where it has them, calibration against cases with a known answer."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from telme.evaluation import (
    Evaluation,
    accuracy,
    bootstrap_interval,
    class_f1,
    confusion,
    expected_calibration_error,
    fit_temperature,
    macro_f1,
    negative_log_likelihood,
    softmax,
    weighted_f1,
)

CLASSES = range(4)
pairs = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=60)


@given(pairs)
def test_scores_are_scikit_learn_s(items: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(items).T
    counts = confusion(labels, predictions, len(CLASSES))
    np.testing.assert_array_equal(counts, confusion_matrix(labels, predictions, labels=CLASSES))
    options = {"labels": list(CLASSES), "zero_division": 0}
    np.testing.assert_allclose(class_f1(counts), f1_score(labels, predictions, average=None, **options))
    assert macro_f1(counts) == pytest.approx(f1_score(labels, predictions, average="macro", **options))
    assert weighted_f1(counts) == pytest.approx(f1_score(labels, predictions, average="weighted", **options))
    assert accuracy(counts) == pytest.approx(accuracy_score(labels, predictions))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Accuracy of a classifier that is right with probability 0.7: 95 % intervals hold 0.7 in most of 200 trials."""
    random = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        labels = random.integers(2, size=300)
        predictions = np.where(random.random(300) < 0.7, labels, 1 - labels)
        low, high = bootstrap_interval(confusion(labels, predictions, 2), accuracy, resamples=400, seed=trial)
        assert low <= high
        covered += low <= 0.7 <= high
    assert covered >= 180


def _calibrated(size: int, temperature: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Labels drawn from the softmax of logits, and the logits times `temperature`."""
    random = np.random.default_rng(11)
    logits = random.normal(scale=2.0, size=(size, 5))
    labels = np.array([random.choice(5, p=p) for p in softmax(logits)])
    return logits * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_fitted_temperature_undoes_the_scaling(temperature: float) -> None:
    logits, labels = _calibrated(4000, temperature)
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(temperature, rel=0.08)
    assert negative_log_likelihood(logits, labels, fitted) <= negative_log_likelihood(logits, labels, temperature)
    assert expected_calibration_error(softmax(logits, fitted), labels) < 0.03


def test_faultless_predictions_give_a_bound() -> None:
    logits = np.eye(3)[[0, 1, 2, 0]]
    assert fit_temperature(logits, np.array([0, 1, 2, 0])) == pytest.approx(0.05)
    assert fit_temperature(logits, np.array([1, 2, 0, 1])) == pytest.approx(20.0)


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    labels = np.array([0, 1, 1, 1])  # the bin at 0.9: half right; at 0.6: right; at 1.0: right
    assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx((0.8 + 0.4 + 0.0) / 4)


def test_softmax_survives_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])), [[1.0, 0.0], [0.5, 0.5]])


def test_an_evaluation_names_every_figure() -> None:
    evaluation = Evaluation.of(np.eye(2)[[0, 1, 1]], np.array([0, 1, 0]), ("joy", "anger"))
    metrics = evaluation.metrics()
    assert set(metrics) == {"weighted_f1", "macro_f1", "accuracy", "nll", "f1_joy", "f1_anger"}
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert 0 <= evaluation.calibration_error(2.0) <= 1
    np.testing.assert_array_equal(evaluation.resampled_counts(), evaluation.counts)
    grouped = Evaluation.of(evaluation.logits, evaluation.truth, evaluation.labels, ("b", "a", "b"))
    np.testing.assert_array_equal(grouped.resampled_counts(), [[[0, 0], [0, 1]], [[1, 1], [0, 0]]])
