"""What a student learns from the teacher, besides the labels.

L_student = cross-entropy + alpha * L_response + L_feature  (TelME, Yun et al., NAACL 2024, arXiv 2401.12987).
"""

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize, softmax


def response_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """L_response = L_inter + L_intra: the student ranks classes, and samples, as the teacher does.

    With y = softmax(z / tau) and Pearson's correlation rho:
        L_inter = tau² (1 - mean over samples i of rho(y_s[i, :], y_t[i, :]))
        L_intra = tau² (1 - mean over classes c of rho(y_s[:, c], y_t[:, c]))
    This is DIST (Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv 2205.10536).

    student_logits, teacher_logits: (B, C). temperature: tau. Returns a scalar in [0, 4 tau²].
    A batch of one has no correlation over samples, so L_intra is left out of it.
    """
    y_s = softmax(student_logits / temperature, dim=1)
    y_t = softmax(teacher_logits / temperature, dim=1)
    loss = 1 - _correlation(y_s, y_t).mean()
    if len(y_s) > 1:
        loss = loss + 1 - _correlation(y_s.T, y_t.T).mean()
    return temperature**2 * loss


def feature_loss(student_vectors: Tensor, teacher_vectors: Tensor) -> Tensor:
    """L_feature: the student's vectors lie to the teacher's as the teacher's lie to each other.

    With L2-normalised rows t (teacher) and s (student):
        P = softmax of the rows of t tᵀ,  Q = softmax of the rows of t sᵀ,
        L_feature = KL(P || Q) = mean over rows of sum P (log P - log Q)
    (TelME, arXiv 2401.12987; temperature 1 as in the authors' code).

    student_vectors, teacher_vectors: (B, d). Returns a scalar, at least 0, and 0 for equal directions.
    """
    t = normalize(teacher_vectors, dim=1)
    s = normalize(student_vectors, dim=1)
    log_p = log_softmax(t @ t.T, dim=1)
    log_q = log_softmax(t @ s.T, dim=1)
    return kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def lengthen_gradient(loss: Tensor, factor: float) -> Tensor:
    """`loss`, with a gradient that is `factor` times as long."""
    return loss.detach() + factor * (loss - loss.detach())


def _correlation(a: Tensor, b: Tensor, smallest: float = 1e-8) -> Tensor:
    """Pearson's correlation of equal rows of `a` and `b`, both (N, M): (N,); 0 for a constant row."""
    a = a - a.mean(dim=1, keepdim=True)
    b = b - b.mean(dim=1, keepdim=True)
    return torch.cosine_similarity(a, b, dim=1, eps=smallest)
