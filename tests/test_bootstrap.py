"""Intervals and comparisons that resample whole groups, against plain loops over the items."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telme.evaluation import (
    accuracy,
    bootstrap_class_f1,
    bootstrap_interval,
    class_f1,
    confusion,
    grouped_confusion,
    paired_bootstrap,
    reliability,
    resample,
    weighted_f1,
)

CLASSES = 3
items = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from("abcd")), min_size=1, max_size=40)


def answers(
    size: int, right: float, seed: int, groups: int = 40
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[str]]:
    """Truth, predictions that are right so often, and groups; predictions of one group resemble each other."""
    random = np.random.default_rng(seed)
    truth = random.integers(CLASSES, size=size)
    places = random.integers(groups, size=size)
    luck = random.normal(scale=0.2, size=groups)[places]
    predictions = np.where(random.random(size) < right + luck, truth, (truth + 1) % CLASSES)
    return truth, predictions, [f"dialogue {place}" for place in places]


@given(items)
def test_grouped_counts_are_those_of_each_group(found: list[tuple[int, int, str]]) -> None:
    labels, predictions = (np.array([item[side] for item in found]) for side in (0, 1))
    groups = [group for _, _, group in found]
    counts = grouped_confusion(labels, predictions, groups, CLASSES)
    assert len(counts) == len(set(groups))
    for one, name in zip(counts, sorted(set(groups)), strict=True):
        expected = np.zeros((CLASSES, CLASSES), int)
        for label, prediction, group in found:
            expected[label, prediction] += group == name
        np.testing.assert_array_equal(one, expected)


@given(items)
def test_a_resample_is_a_sum_of_groups(found: list[tuple[int, int, str]]) -> None:
    labels, predictions = (np.array([item[side] for item in found]) for side in (0, 1))
    counts = grouped_confusion(labels, predictions, [group for _, _, group in found], CLASSES)
    random = np.random.default_rng(7)
    size = len(counts)
    for draw, times in zip(
        resample(counts, 20, seed=7), random.multinomial(size, [1 / size] * size, size=20), strict=True
    ):
        assert times.sum() == size
        np.testing.assert_array_equal(draw, sum(n * one for n, one in zip(times, counts, strict=True)))


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_holds_the_value(seed: int) -> None:
    truth, predictions, groups = answers(600, 0.6, seed)
    counts = grouped_confusion(truth, predictions, groups, CLASSES)
    for metric in (weighted_f1, accuracy):
        low, high = bootstrap_interval(counts, metric)
        assert low < metric(counts.sum(0)) < high
    low_f1, high_f1 = bootstrap_class_f1(counts)
    values = class_f1(counts.sum(0))
    assert ((low_f1 < values) & (values < high_f1)).all()


def test_groups_widen_the_interval_where_their_items_resemble_each_other() -> None:
    truth, predictions, groups = answers(800, 0.6, seed=1, groups=10)
    by_item = bootstrap_interval(confusion(truth, predictions, CLASSES), accuracy)
    by_group = bootstrap_interval(grouped_confusion(truth, predictions, groups, CLASSES), accuracy)
    assert by_group[1] - by_group[0] > 1.3 * (by_item[1] - by_item[0])


def test_groups_of_one_give_the_interval_by_item() -> None:
    truth, predictions, _ = answers(500, 0.6, seed=2)
    singles = grouped_confusion(truth, predictions, [str(place) for place in range(500)], CLASSES)
    expected = bootstrap_interval(confusion(truth, predictions, CLASSES))
    assert bootstrap_interval(singles) == pytest.approx(expected, abs=0.01)


def test_a_run_does_not_differ_from_itself() -> None:
    truth, predictions, groups = answers(300, 0.6, seed=3)
    counts = grouped_confusion(truth, predictions, groups, CLASSES)
    same = paired_bootstrap(counts, counts)
    assert (same.value, same.interval, same.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_a_better_run_is_found_better_and_the_other_way_round() -> None:
    truth, worse, groups = answers(600, 0.5, seed=4)
    better = np.where(np.random.default_rng(0).random(600) < 0.3, truth, worse)
    a, b = (grouped_confusion(truth, one, groups, CLASSES) for one in (worse, better))
    found, turned = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert found.value == pytest.approx(weighted_f1(b.sum(0)) - weighted_f1(a.sum(0)))
    assert 0 < found.interval[0] < found.value < found.interval[1]
    assert found.p_value == pytest.approx(2 / 2001)
    assert turned.value == -found.value
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]))
    assert turned.p_value == found.p_value


def test_equally_good_runs_are_rarely_told_apart() -> None:
    """Under no difference, p is below 0.05 about every twentieth time."""
    small = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        truth = random.integers(CLASSES, size=200)
        a, b = (np.where(random.random(200) < 0.6, truth, (truth + 1) % CLASSES) for _ in range(2))
        groups = [str(place // 4) for place in range(200)]
        counts = [grouped_confusion(truth, one, groups, CLASSES) for one in (a, b)]
        small += paired_bootstrap(*counts, metric=accuracy, resamples=300).p_value < 0.05
    assert small <= 9


def test_other_items_are_no_pair() -> None:
    truth, predictions, groups = answers(50, 0.5, seed=1)
    one = grouped_confusion(truth, predictions, groups, CLASSES)
    other = grouped_confusion(truth, predictions, groups[::-1], CLASSES)
    with pytest.raises(ValueError, match="same groups"):
        paired_bootstrap(one, other)


def test_a_reliability_diagram_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    found = reliability(probabilities, np.array([0, 1, 1, 1]), bins=10)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 3]
    assert found.confidence[[6, 9]] == pytest.approx([0.6, (0.9 + 0.9 + 1.0) / 3])
    assert found.accuracy[[6, 9]] == pytest.approx([1.0, 2 / 3])
    assert found.error == pytest.approx((0.4 + 3 * abs(2 / 3 - 2.8 / 3)) / 4)
