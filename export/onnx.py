"""PyTorch module -> ONNX model in memory, with named dimensions that vary."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto
from torch import nn

from export.errors import ExportError
from telme.bundle import Tensor

# The first opset in which attention is one operator, and a third of the nodes fewer.
OPSET = 23

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Signature:
    """A part's inputs and outputs, as the manifest describes them."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def to_onnx(module: nn.Module, signature: Signature, example: Mapping[str, Array], opset: int = OPSET) -> ModelProto:
    """Trace `module` and check the result.

    example: an input by name for each of the signature's inputs. Every dimension that varies should be above 1 and
    differ from the others, else the trace may take it for a constant.
    Raises ExportError when the module cannot be traced, or not with those dimensions.
    """
    arguments = tuple(torch.from_numpy(example[tensor.name]) for tensor in signature.inputs)
    dynamic = tuple(
        {axis: name for axis, name in enumerate(tensor.shape) if isinstance(name, str)} for tensor in signature.inputs
    )
    try:
        with _quiet(), torch.inference_mode():
            program = torch.onnx.export(
                module.eval(),
                arguments,
                dynamo=True,
                opset_version=opset,
                input_names=[tensor.name for tensor in signature.inputs],
                output_names=[tensor.name for tensor in signature.outputs],
                dynamic_shapes=dynamic,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"{type(module).__name__} cannot be exported to ONNX ({reason}).") from error
    if program is None:
        raise ExportError(f"{type(module).__name__} cannot be exported to ONNX; the exporter gave no program.")
    model = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with the paths of this machine
        node.doc_string = ""
    check(model, signature)
    return model


def check(model: ModelProto, signature: Signature) -> None:
    """Raises ExportError unless `model` is valid and its inputs and outputs have the shapes described."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"The exported model is not valid ONNX ({reason}).") from error
    _compare("inputs", model.graph.input, signature.inputs)
    _compare("outputs", model.graph.output, signature.outputs)


def _compare(what: str, found: Sequence[onnx.ValueInfoProto], wanted: Sequence[Tensor]) -> None:
    shapes = {value.name: _shape(value) for value in found}
    described = {tensor.name: tensor.shape for tensor in wanted}
    if shapes != described:
        raise ExportError(f"The exported model's {what} are {shapes}, they should be {described}.")


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about its own internals from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
