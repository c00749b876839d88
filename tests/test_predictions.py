"""Saved answers come back as they were, and files that hold something else are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from telme.predictions import Heading, Predictions, PredictionsError, grouped_pair

LABELS = ("anger", "joy", "neutral")


def predictions(size: int = 12, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    heading = Heading(
        name="text-meld",
        part="text",
        inputs="text",
        data="MELD test",
        labels=LABELS,
        temperature=1.3,
        grouped_by="dialogue",
    )
    ids = tuple(f"utterance {place}" for place in range(size))
    groups = tuple(f"dialogue {place // 3}" for place in range(size))
    logits = random.normal(size=(size, len(LABELS))).astype(np.float32)
    return Predictions(heading, ids, groups, np.arange(size) % len(LABELS), logits)


@given(
    logits=arrays.arrays(np.float32, (4, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    names=st.lists(st.text(), min_size=4, max_size=4, unique=True),
)
def test_they_come_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, logits: np.ndarray, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("saved") / "text-meld.jsonl"
    saved = replace(predictions(4), ids=tuple(names), logits=logits)
    saved.write(path)
    again = Predictions.read(path)
    assert (again.heading, again.ids, again.groups) == (saved.heading, saved.ids, saved.groups)
    np.testing.assert_array_equal(again.truth, saved.truth)
    np.testing.assert_array_equal(again.logits, logits)
    assert len(path.read_bytes().splitlines()) == 5


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda text: "", "it is empty"),
        (lambda text: text.splitlines()[0], "0 items"),
        (lambda text: text[:-30], "holds no predictions"),
        (lambda text: text.replace("predictions/1", "predictions/9"), "schema_version"),
        (lambda text: text.replace('"label":"joy"', '"label":"envy"'), "unknown label 'envy'"),
        (lambda text: text.replace("utterance 3", "utterance 4"), "an item is there twice"),
        (lambda text: text.replace('"logits":[', '"logits":[1.0,', 1), "holds no predictions"),
        (lambda text: "\x00\x01", "holds no predictions"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, damage: object, complaint: str) -> None:
    path = tmp_path / "text-meld.jsonl"
    predictions().write(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(PredictionsError) as caught:
        Predictions.read(path)
    assert complaint in str(caught.value)
    assert "run telme-evaluate run again." in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match=r"Cannot read .*nothing.jsonl"):
        Predictions.read(tmp_path / "nothing.jsonl")


def test_the_order_of_items_does_not_matter_to_a_comparison() -> None:
    one = predictions()
    order = np.random.default_rng(1).permutation(len(one.ids))
    other = replace(
        one,
        ids=tuple(one.ids[place] for place in order),
        groups=tuple(one.groups[place] for place in order),
        truth=one.truth[order],
        logits=one.logits[order],
    )
    first, second = grouped_pair(one, other)
    np.testing.assert_array_equal(first, second)


def test_other_items_labels_or_groups_are_refused() -> None:
    one = predictions()
    with pytest.raises(PredictionsError, match=r"3 of the items of text-meld differ, such as utterance 10;"):
        grouped_pair(one, predictions(9))
    with pytest.raises(PredictionsError, match="12 of the items of text-meld differ"):
        grouped_pair(one, replace(one, truth=(one.truth + 1) % 3))
    with pytest.raises(PredictionsError, match="3 of the items of text-meld differ"):
        grouped_pair(one, replace(one, groups=("elsewhere",) * 3 + one.groups[3:]))
    other = one.heading.model_copy(update={"labels": ("anger", "joy", "sadness")})
    with pytest.raises(PredictionsError, match="the labels of text-meld are"):
        grouped_pair(one, replace(one, heading=other))
