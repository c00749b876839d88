"""How sure the students may be together, without text: witnesses who are independent, and witnesses who are not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from telme.evaluation import softmax
from telme.labels import MELD
from telme.training.company import Batch, Material, Paired
from telme.training.encodings import Encodings
from telme.training.students import judge_students, without_text

LABELS = len(MELD)


class Witness:
    """A student whose vectors are its logits, calibrated by a temperature of 2."""

    about = SimpleNamespace(labels=MELD, temperature=2.0)

    def logits(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors


STUDENTS = {"audio": Witness(), "visual": Witness()}


def witness(truth: np.ndarray, seed: int, clearness: float = 1.0) -> Encodings:
    """What an observer of (truth + noise) may say: exactly the log-probabilities, so it is calibrated by itself."""
    random = np.random.default_rng(seed)
    seen = clearness * np.eye(LABELS)[truth] + random.normal(size=(len(truth), LABELS))
    ids = tuple(map(str, range(len(truth))))
    groups = tuple(str(i // 20) for i in range(len(truth)))
    return Encodings(torch.from_numpy(2 * clearness * seen).float(), truth, ids, groups=groups)


def paired(seed: int, same: bool) -> Paired:
    truth = np.random.default_rng(seed).integers(0, LABELS, 4000)
    first = witness(truth, 10 * seed + 1)
    return Paired(first, first, first if same else witness(truth, 10 * seed + 2))


def test_independent_witnesses_add_up() -> None:
    together, scores = judge_students(
        STUDENTS, {"dev": paired(1, same=False), "test": paired(2, same=False)}, MELD, "MELD", seed=0
    )
    assert together == pytest.approx(0.5, abs=0.05)
    value = {score.metric: score.value for score in scores}
    assert value["calibration_error"] < 0.03 < value["calibration_error_before"]
    assert {score.part for score in scores} == {"students"}
    interval = next(score.interval for score in scores if score.metric == "weighted_f1")
    assert interval is not None
    assert interval[0] < value["weighted_f1"] < interval[1]


def test_a_witness_that_is_heard_twice_counts_once() -> None:
    together, _ = judge_students(
        STUDENTS, {"dev": paired(1, same=True), "test": paired(2, same=True)}, MELD, "MELD", seed=0
    )
    assert together == pytest.approx(1.0, abs=0.08)


def test_nobody_has_both_students() -> None:
    truth = np.zeros(3, np.int64)
    first, nothing = witness(truth, 0), Encodings(torch.zeros(1, LABELS), np.array([1]))
    material = Material(first, first, nothing)
    assert judge_students(STUDENTS, {"dev": material, "test": material}, MELD, "MELD", seed=0) == (1.0, ())


def test_only_both_together_are_divided() -> None:
    logits = torch.randn(4, LABELS, generator=torch.Generator().manual_seed(0))
    present = torch.tensor([1.0, 1, 0, 0]), torch.tensor([1.0, 0, 1, 0])
    batch = Batch(logits, logits, 2 * logits, *present, torch.ones(4), torch.zeros(4, dtype=torch.long))
    found = without_text(STUDENTS, batch, together=0.5)
    audio, visual = (np.log(softmax(times * logits.numpy(), 2.0)) for times in (1, 2))
    np.testing.assert_allclose(found[0], audio[0] + visual[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], audio[1], rtol=1e-5)
    np.testing.assert_allclose(found[2], visual[2], rtol=1e-5)
    np.testing.assert_array_equal(found[3], 0)
