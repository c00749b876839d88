"""Eight-bit products for a strongly typed network: QuantizeLinear and DequantizeLinear around what they read.

TensorRT 11 has no calibrators: a product is computed in eight bits where both of its operands come out of a
DequantizeLinear. Everything is symmetric, as TensorRT demands, and biases stay as they are. Scales come from the
largest magnitudes that real inputs bring about.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.emulation import emulated
from export.precision import channel_axis, is_large
from export.typed import cast, element_types
from telme.runtime.model import Array

Eight = Literal["int8", "fp8"]


@dataclass(frozen=True)
class _Kind:
    """largest: what a scale maps the largest magnitude to."""

    type: int
    largest: float
    by_channel: bool


# fp8 is E4M3, whose exponent makes up for what a scale per channel would.
KINDS: Mapping[Eight, _Kind] = {
    "int8": _Kind(TensorProto.INT8, 127.0, by_channel=True),
    "fp8": _Kind(TensorProto.FLOAT8E4M3FN, 448.0, by_channel=False),
}
DTYPES = {"int8": np.dtype(np.int8), "fp8": np.dtype(ml_dtypes.float8_e4m3fn)}


def explicit(
    model: ModelProto, eight: Eight, inputs: Sequence[Mapping[str, Array]], left: Sequence[str] = ()
) -> ModelProto:
    """The same model with eight-bit products and convolutions by large weights; `model` itself is left alone.

    model: in half precision, from export/typed.py; what is not quantised stays so.
    inputs: batches of real inputs. left: names of nodes that stay as they are.
    """
    result = ModelProto()
    result.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer if is_large(tensor)}
    products = [node for node in model.graph.node if node.name not in left and _is_quantisable(node, weights)]
    magnitudes = largest_magnitudes(model, list(dict.fromkeys(node.input[0] for node in products)), inputs)
    types = element_types(model)
    made: dict[str, str] = {}  # operand -> its eight-bit version
    nodes: list[NodeProto] = []
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    chosen = {node.output[0] for node in products}
    for node in result.graph.node:
        if node.output[0] in chosen:
            operand, weight = node.input[:2]
            if operand not in made:
                made[operand] = f"{operand}.{eight}"
                scale = np.array(magnitudes[operand] / KINDS[eight].largest)
                added = _scaled(operand, scale, eight, types[operand])
                tensors |= {tensor.name: tensor for tensor in added}
                nodes += _there_and_back(operand, made[operand])
            if weight not in made:
                made[weight] = f"{weight}.{eight}"
                stored, back = _stored(weights[weight], node, eight, made[weight])
                tensors |= {tensor.name: tensor for tensor in stored}
                nodes.append(back)
            node.input[0], node.input[1] = made[operand], made[weight]
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(tensor for name, tensor in tensors.items() if name in used)
    return result


def largest_magnitudes(
    model: ModelProto, names: Sequence[str], inputs: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """How large the values of tensors become over all inputs; at least the smallest normal half."""
    watched = emulated(model)
    shown = [f"{name}.shown" for name in names]
    watched.graph.node.extend(cast(name, show, TensorProto.FLOAT) for name, show in zip(names, shown, strict=True))
    watched.graph.output.extend(helper.make_tensor_value_info(show, TensorProto.FLOAT, None) for show in shown)
    largest = dict.fromkeys(names, float(np.finfo(np.float16).tiny))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        onnx.save(watched, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for batch in inputs:
            for name, value in zip(names, session.run(shown, dict(batch)) if shown else [], strict=True):
                largest[name] = max(largest[name], float(np.abs(value).max()))
    return largest


def _is_quantisable(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    if node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[1] not in weights:
        return False
    return node.op_type == "Conv" or len(weights[node.input[1]].dims) == 2


def _there_and_back(name: str, output: str) -> Iterator[NodeProto]:
    arguments = [f"{name}.scale", f"{name}.zero"]
    yield helper.make_node("QuantizeLinear", [name, *arguments], [f"{name}.quantized"])
    yield helper.make_node("DequantizeLinear", [f"{name}.quantized", *arguments], [output])


def _stored(weight: TensorProto, node: NodeProto, eight: Eight, output: str) -> tuple[list[TensorProto], NodeProto]:
    """A weight in eight bits, and the node that gives it its type back."""
    values = numpy_helper.to_array(weight).astype(np.float32)
    kind = KINDS[eight]
    axis = channel_axis(node, values.ndim) if kind.by_channel else None
    others = None if axis is None else tuple(place for place in range(values.ndim) if place != axis)
    magnitude = np.maximum(np.abs(values).max(axis=others, keepdims=True), np.finfo(np.float16).tiny)
    scale = (magnitude / kind.largest).astype(helper.tensor_dtype_to_np_dtype(weight.data_type)).astype(np.float32)
    eighths = np.clip(values / scale, -kind.largest, kind.largest)
    rounded = (np.rint(eighths) if eight == "int8" else eighths).astype(DTYPES[eight])
    scales = scale.reshape(()) if axis is None else scale.reshape(-1)
    tensors = [
        numpy_helper.from_array(rounded, f"{weight.name}.quantized"),
        *_scaled(weight.name, scales, eight, weight.data_type),
    ]
    # Of a single scale there is no axis; the default then says nothing.
    names = [tensor.name for tensor in tensors]
    return tensors, helper.make_node("DequantizeLinear", names, [output], axis=1 if axis is None else axis)


def _scaled(name: str, scale: npt.NDArray[np.floating], eight: Eight, kind: int) -> list[TensorProto]:
    """Scale and zero point of a tensor of that type."""
    return [
        numpy_helper.from_array(scale.astype(helper.tensor_dtype_to_np_dtype(kind)), f"{name}.scale"),
        numpy_helper.from_array(np.zeros(scale.shape, DTYPES[eight]), f"{name}.zero"),
    ]
