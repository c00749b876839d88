"""One part: PyTorch module -> ONNX file, compared with the module on real inputs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import onnx
from onnx import ModelProto
from torch import nn

from export import parity, static
from export.lean import lean
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
    calibration: inputs of single utterances, other ones than the samples; at least one.
    """

    name: PartName
    module: nn.Module
    signature: Signature
    example: dict[str, Array]
    ask: Callable[[Model, int], Sequence[Answer]]
    calibration: Callable[[], Sequence[Mapping[str, Array]]]

    @cached_property
    def model(self) -> ModelProto:
        """The module as ONNX. Raises ExportError when it cannot be exported."""
        return to_onnx(lean(self.module), self.signature, self.example)

    def unquantised(self, model: ModelProto) -> list[str]:
        """Nodes of the part's model that no one scale of activations fits: the first two products over sound.

        They are convolutions, or matrix products in their place (export/lean.py). Pauses lie below the step of a scale
        that is wide enough for speech, and the normalisation behind them makes of the error as much as of a signal.
        """
        if self.name != "audio":
            return []
        return [node.name for node in model.graph.node if node.op_type in ("Conv", "MatMul")][:2]

    @cached_property
    def trained_answers(self) -> Sequence[Answer]:
        """What the module itself says, of one item at a time."""
        return self.ask(TorchModel(self.module, self.signature), 1)


def export(plan: Plan, precision: Precision, folder: Path) -> Part:
    """Write `folder`/<name>.onnx.

    The module answers one item at a time and the file as many as the runtime gives it, so that padding is judged too.
    Raises ExportError when the module cannot be exported, StrayError when the result strays from it.
    """
    path = folder / f"{plan.name}.onnx"
    if precision == "int8-static":
        model = static.quantized(plan.model, plan.calibration(), plan.unquantised(plan.model))
    else:
        model = convert(plan.model, precision, plan.unquantised(plan.model))
    onnx.save(model, path)
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
    """How well `model` answers as the module does. Raises StrayError where its answers are not finite."""
    answers = plan.ask(model, batch_max(part))
    parity.demand_finite(plan.name, part.precision, answers)
    agreement = parity.compare(plan.trained_answers, answers)
    log.info(
        "%s in %s on %s: %.2f MB, logits within %.2g, cosine at least %.5f, same emotion on %.1f %% of %d items",
        plan.name,
        part.precision,
        part.backend,
        part.bytes / 1e6,
        agreement.max_abs_error,
        agreement.min_cosine,
        100 * agreement.argmax_agreement,
        agreement.items,
    )
    return agreement
