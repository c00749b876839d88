"""The queue of past answers: what the loss is with it, where its gradient goes, and that without it nothing changes."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy, pearsonr
from torch import Tensor

from telme.losses import feature_loss, lengthen_gradient, response_loss
from telme.training.config import Distillation
from telme.training.distillation import Answer, Distiller

CLASSES, SIZE = 7, 5


def answers(count: int, seed: int) -> Answer:
    generator = torch.Generator().manual_seed(seed)
    vectors, logits = (torch.randn(count, n, generator=generator, dtype=torch.float64) for n in (SIZE, CLASSES))
    return Answer(vectors, logits)


def rows(of: Answer, *places: int) -> Answer:
    return Answer(of.vector[places[0] : places[1]], of.logits[places[0] : places[1]])


def learnt(of: Answer) -> Answer:
    return Answer(of.vector.clone().requires_grad_(), of.logits.clone().requires_grad_())


def by_hand(student: Answer, teacher: Answer, tau: float, alpha: float) -> float:
    """The paper's formulas in NumPy and SciPy."""
    y_s, y_t = (softmax(one.logits.detach().numpy() / tau, axis=1) for one in (student, teacher))
    inter = 1 - np.mean([pearsonr(a, b).statistic for a, b in zip(y_s, y_t, strict=True)])
    intra = 1 - np.mean([pearsonr(a, b).statistic for a, b in zip(y_s.T, y_t.T, strict=True)])
    s, t = (_directions(one.vector.detach().numpy()) for one in (student, teacher))
    divergence = entropy(softmax(t @ t.T, axis=1), np.exp(log_softmax(t @ s.T, axis=1)), axis=1).mean()
    return float(alpha * tau**2 * (inter + intra) + divergence)


def _directions(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_without_a_queue_a_batch_stands_alone() -> None:
    student, teacher = answers(12, 1), answers(12, 2)
    distiller = Distiller(Distillation(temperature=2.0, alpha=0.5))
    for start in (0, 4, 8):
        s, t = rows(student, start, start + 4), rows(teacher, start, start + 4)
        alone = 0.5 * response_loss(s.logits, t.logits, 2.0) + feature_loss(s.vector, t.vector)
        assert torch.equal(distiller.loss(s, t), alone)


def test_with_a_queue_the_loss_is_that_of_all_its_utterances() -> None:
    student, teacher = answers(13, 1), answers(13, 2)
    distiller = Distiller(Distillation(temperature=2.0, alpha=0.5, queue=6))
    for start, stop, oldest in ((0, 4, 0), (4, 7, 0), (7, 11, 1), (11, 13, 5)):
        loss = distiller.loss(rows(student, start, stop), rows(teacher, start, stop))
        expected = by_hand(rows(student, oldest, stop), rows(teacher, oldest, stop), 2.0, 0.5)
        assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_who_equals_the_teacher_loses_nothing() -> None:
    teacher, distiller = answers(12, 2), Distiller(Distillation(queue=6))
    for start in (0, 4, 8):
        one = rows(teacher, start, start + 4)
        assert distiller.loss(one, one).item() == pytest.approx(0.0, abs=1e-9)


def test_no_gradient_reaches_the_queue() -> None:
    distiller = Distiller(Distillation(queue=8))
    past, present, teacher = learnt(answers(4, 1)), learnt(answers(4, 2)), answers(8, 3)
    distiller.loss(past, rows(teacher, 0, 4))
    distiller.loss(present, rows(teacher, 4, 8)).backward()
    assert past.vector.grad is None
    assert past.logits.grad is None
    assert present.vector.grad is not None
    assert present.vector.grad.abs().sum() > 0
    assert present.logits.grad is not None
    assert present.logits.grad.abs().sum() > 0


def test_with_fresh_answers_the_mean_gradient_is_that_of_the_large_batch() -> None:
    """Each third of twelve in turn, with the other two in the queue: the mean of three gradients is that of twelve."""
    settings, teacher = Distillation(temperature=2.0, queue=8), answers(12, 2)
    whole = learnt(answers(12, 1))
    Distiller(settings).loss(whole, teacher).backward()
    vectors: list[Tensor] = []
    logits: list[Tensor] = []
    for third in range(3):
        distiller = Distiller(settings)
        for start in (4 * (third + 1) % 12, 4 * (third + 2) % 12):
            distiller.loss(rows(answers(12, 1), start, start + 4), rows(teacher, start, start + 4))
        part = learnt(rows(answers(12, 1), 4 * third, 4 * third + 4))
        distiller.loss(part, rows(teacher, 4 * third, 4 * third + 4)).backward()
        assert part.vector.grad is not None
        assert part.logits.grad is not None
        vectors.append(part.vector.grad / 3)
        logits.append(part.logits.grad / 3)
    torch.testing.assert_close(torch.cat(vectors), whole.vector.grad)
    torch.testing.assert_close(torch.cat(logits), whole.logits.grad)


def test_a_queue_steadies_the_comparison_of_samples() -> None:
    """Batches of four scatter around the loss of the whole; with a queue of 64 they scatter less."""
    student, teacher = answers(400, 1), answers(400, 2)

    def scatter(queue: int) -> float:
        distiller = Distiller(Distillation(temperature=2.0, queue=queue))
        losses = [
            distiller.loss(rows(student, place, place + 4), rows(teacher, place, place + 4)).item()
            for place in range(0, 400, 4)
        ]
        return float(np.std(losses[20:]))

    assert scatter(64) < 0.5 * scatter(0)


def test_a_gradient_is_lengthened_and_nothing_else() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = lengthen_gradient((x**2).sum(), 3.0)
    assert loss.item() == 5.0
    loss.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [6.0, 12.0]
