"""The distillation losses against independent NumPy, and where their limits are known."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy, pearsonr

from telme.losses import feature_loss, response_loss

Array = npt.NDArray[np.float64]


@pytest.fixture
def pair() -> tuple[Array, Array]:
    random = np.random.default_rng(7)
    return random.normal(size=(6, 7)), random.normal(size=(6, 7))


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
def test_response_loss_is_dist(pair: tuple[Array, Array], tau: float) -> None:
    student, teacher = pair
    y_s, y_t = softmax(student / tau, axis=1), softmax(teacher / tau, axis=1)
    inter = tau**2 * (1 - np.mean([pearsonr(s, t).statistic for s, t in zip(y_s, y_t, strict=True)]))
    intra = tau**2 * (1 - np.mean([pearsonr(s, t).statistic for s, t in zip(y_s.T, y_t.T, strict=True)]))
    loss = response_loss(torch.tensor(student), torch.tensor(teacher), tau)
    assert loss.item() == pytest.approx(inter + intra, abs=1e-9)


def test_feature_loss_is_the_divergence_of_similarities(pair: tuple[Array, Array]) -> None:
    s, t = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in pair)
    expected = entropy(softmax(t @ t.T, axis=1), np.exp(log_softmax(t @ s.T, axis=1)), axis=1).mean()
    assert feature_loss(torch.tensor(pair[0]), torch.tensor(pair[1])).item() == pytest.approx(expected, abs=1e-9)


def test_who_equals_the_teacher_loses_nothing(pair: tuple[Array, Array]) -> None:
    logits = torch.tensor(pair[0])
    assert response_loss(logits, logits + 3.0, 4.0).item() == pytest.approx(0.0, abs=1e-9)  # softmax ignores a shift
    assert feature_loss(logits * 5.0, logits).item() == pytest.approx(0.0, abs=1e-9)  # only the direction counts


def test_the_opposite_of_the_teacher_is_near_the_upper_limit() -> None:
    """With two classes the probabilities of opposite logits correlate at exactly -1: the loss is 4 tau²."""
    logits = torch.tensor([[2.0, -1.0], [-0.5, 1.0], [0.3, 0.1]], dtype=torch.float64)
    assert response_loss(logits, -logits, 2.0).item() == pytest.approx(4 * 2.0**2, abs=1e-6)


def test_one_sample_and_constant_rows_stay_finite_with_a_gradient() -> None:
    student = torch.zeros(1, 7, requires_grad=True)
    loss = response_loss(student, torch.randn(1, 7), 4.0) + feature_loss(student, torch.randn(1, 7))
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_descending_the_losses_reaches_the_teacher(pair: tuple[Array, Array]) -> None:
    student, teacher = torch.tensor(pair[0], requires_grad=True), torch.tensor(pair[1])
    optimizer = torch.optim.Adam([student], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = response_loss(student, teacher, 4.0) + feature_loss(student, teacher)
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-2
    assert (student.argmax(1) == teacher.argmax(1)).all()
