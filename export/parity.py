"""Whether an exported part says what the PyTorch module says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.errors import ExportError, StrayError
from telme.bundle import Parity, Precision
from telme.runtime.model import Float32


@dataclass(frozen=True)
class Limits:
    """What an export must reach. Cosine and agreement are of the worst item, and of the share of all items."""

    min_cosine: float
    argmax_agreement: float


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(0.9999, 1.0),
    "fp16": Limits(0.999, 0.98),
    "bf16": Limits(0.99, 0.95),
    "int8": Limits(0.99, 0.95),
    "int8-dynamic": Limits(0.97, 0.90),
    "int8-static": Limits(0.99, 0.95),
    "fp8": Limits(0.99, 0.95),
}


@dataclass(frozen=True)
class Answer:
    """What a part says of one item. vector: (D,), what the next part reads. logits: (C,)."""

    vector: Float32
    logits: Float32


def demand_sound(part: str, trained: Sequence[Answer]) -> None:
    """Raises ExportError where the trained part itself answers with NaN or infinity: nothing can agree with that."""
    if not _finite(trained):
        raise ExportError(f"The trained {part} part gives NaN or infinity for real inputs; train it again.")


def demand_finite(part: str, precision: Precision, exported: Sequence[Answer]) -> None:
    """Raises StrayError where an exported part answers with NaN or infinity, which half precision overflows to."""
    if not _finite(exported):
        raise StrayError(
            f"The {part} part in {precision} gives NaN or infinity where the trained one does not: they are beyond "
            f"that precision; choose another --precision for {part}, such as {part}=fp32."
        )


def compare(reference: Sequence[Answer], exported: Sequence[Answer]) -> Parity:
    """Errors are of logits, over all items and classes; the cosine is of vectors. All answers are finite."""
    wanted, found = np.stack([a.logits for a in reference]), np.stack([a.logits for a in exported])
    errors = np.abs(wanted - found)
    cosines = [_cosine(a.vector, b.vector) for a, b in zip(reference, exported, strict=True)]
    return Parity(
        items=len(reference),
        max_abs_error=float(errors.max()),
        mean_abs_error=float(errors.mean()),
        min_cosine=min(cosines),
        argmax_agreement=float((wanted.argmax(axis=1) == found.argmax(axis=1)).mean()),
    )


def demand(part: str, precision: Precision, parity: Parity) -> None:
    """Raises StrayError when a part falls short of the limits for its precision."""
    limits = LIMITS[precision]
    if parity.min_cosine < limits.min_cosine or parity.argmax_agreement < limits.argmax_agreement:
        raise StrayError(
            f"The {part} part in {precision} strays from the trained one: cosine {parity.min_cosine:.4f} (at least "
            f"{limits.min_cosine}), same emotion on {parity.argmax_agreement:.1%} of {parity.items} items (at least "
            f"{limits.argmax_agreement:.0%}); choose another --precision for {part}, such as {part}=fp16.",
            parity,
        )


def _finite(answers: Sequence[Answer]) -> bool:
    return all(np.isfinite(answer.vector).all() and np.isfinite(answer.logits).all() for answer in answers)


def _cosine(a: Float32, b: Float32) -> float:
    """-1, as of opposite vectors, where it is not a number."""
    one, other = a.astype(np.float64), b.astype(np.float64)  # squares of float32 may be beyond it
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    cosine = float(one @ other) / max(lengths, 1e-12)
    return -1.0 if math.isnan(cosine) else min(1.0, cosine)
