"""One part: PyTorch module -> ONNX file, compared with the module on real inputs."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from torch import nn

from export import parity
from export.onnx import Signature, to_onnx
from export.parity import Answer
from export.precision import convert
from export.torch_model import TorchModel
from telme.bundle import Parity, Part, Precision, sha256_of
from telme.runtime.encoders import batch_max
from telme.runtime.model import Array, Model
from telme.runtime.onnxruntime import OnnxModel

log = logging.getLogger(__name__)

PartName = Literal["text", "audio", "visual", "fusion"]


@dataclass(frozen=True)
class Plan:
    """What is to be exported and how it is judged.

    example: inputs to trace the module with.
    ask: what the part says of the samples, when a given model computes for at most so many of them at once.
    """

    name: PartName
    module: nn.Module
    signature: Signature
    example: dict[str, Array]
    ask: Callable[[Model, int], Sequence[Answer]]


def export(plan: Plan, precision: Precision, folder: Path) -> Part:
    """Write `folder`/<name>.onnx.

    The module answers one item at a time and the file as many as the runtime gives it, so that padding is judged too.
    Raises ExportError when the module cannot be exported, or the result strays from it.
    """
    path = folder / f"{plan.name}.onnx"
    onnx.save(convert(to_onnx(plan.module, plan.signature, plan.example), precision), path)
    part = Part(
        file=path.name,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        precision=precision,
        inputs=plan.signature.inputs,
        outputs=plan.signature.outputs,
    )
    agreement = compared(plan, OnnxModel(path, part, threads=1), part)
    parity.demand(plan.name, precision, agreement)
    return part.model_copy(update={"parity": agreement})


def compared(plan: Plan, model: Model, part: Part) -> Parity:
    """How well `model` answers as the module does."""
    agreement = parity.compare(
        plan.ask(TorchModel(plan.module, plan.signature), 1), plan.ask(model, batch_max(part.precision))
    )
    log.info(
        "%s in %s: %.2f MB, logits within %.2g, cosine at least %.5f, same emotion on %.1f %% of %d items",
        plan.name,
        part.precision,
        part.bytes / 1e6,
        agreement.max_abs_error,
        agreement.min_cosine,
        100 * agreement.argmax_agreement,
        agreement.items,
    )
    return agreement
