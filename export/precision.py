"""Makes an ONNX model smaller by the way its weights are stored, and optionally faster by int8 arithmetic.

fp16 and int8 change storage only. A Cast or DequantizeLinear after each weight gives back float32, which the runtime
computes once at load. int8 is symmetric, with one scale per output channel, or per row of an embedding table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from telme.bundle import Precision

Float32 = npt.NDArray[np.float32]

SMALLEST_WEIGHT = 4096
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass
class _Replacement:
    """What takes the place of one weight: stored tensors, and nodes that make the weight of them."""

    tensors: list[TensorProto]
    nodes: list[NodeProto] = field(default_factory=list)


def convert(model: ModelProto, precision: Precision, left: Sequence[str] = ()) -> ModelProto:
    """The same model with another precision; `model` itself is left alone.

    fp32 gives an equal copy. int8-dynamic also turns matrix products into int8 ones, but for nodes named in `left`.
    Raises ValueError for bf16, which ONNX Runtime does not compute in, and for int8-static and fp8, which need
    real inputs.
    """
    match precision:
        case "fp32":
            return _copy(model)
        case "fp16":
            return _store(_copy(model), _half)
        case "bf16" | "int8-static" | "fp8":
            raise ValueError(f"weights alone do not make {precision}")
        case "int8":
            return _store(_embeddings_by_row(_copy(model)), _eight_bits)
        case "int8-dynamic":
            return _store(_embeddings_by_row(_dynamic(model, left)), _eight_bits)


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _dynamic(model: ModelProto, left: Sequence[str]) -> ModelProto:
    # ONNX Runtime's kernel takes one scale per column of a matrix, not of the several that attention's heads have.
    stacked = {weight.name for weight in model.graph.initializer if len(weight.dims) > 2}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=[*left, *(node.name for node in model.graph.node if stacked & set(node.input))],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)


def _store(model: ModelProto, replace: Callable[[TensorProto, Sequence[NodeProto]], _Replacement]) -> ModelProto:
    """Replace each large float32 weight that only matrix products, convolutions and recurrent layers read."""
    graph = model.graph
    tensors: list[TensorProto] = []
    nodes: list[NodeProto] = []
    for weight in graph.initializer:
        readers = [node for node in graph.node if weight.name in node.input]
        if is_large(weight) and readers and all(_reads_weight(node, weight.name) for node in readers):
            replacement = replace(weight, readers)
            tensors += replacement.tensors
            nodes += replacement.nodes
        else:
            tensors.append(weight)
    _reset(graph, tensors, [*nodes, *graph.node])
    return model


def _half(weight: TensorProto, readers: Sequence[NodeProto]) -> _Replacement:
    values = numpy_helper.to_array(weight)
    largest = float(np.finfo(np.float16).max)
    stored = numpy_helper.from_array(np.clip(values, -largest, largest).astype(np.float16), f"{weight.name}.half")
    return _Replacement([stored], [helper.make_node("Cast", [stored.name], [weight.name], to=TensorProto.FLOAT)])


def _eight_bits(weight: TensorProto, readers: Sequence[NodeProto]) -> _Replacement:
    axis = channel_axis(readers[0], len(weight.dims))
    values, scales = quantized(numpy_helper.to_array(weight), axis)
    tensors = [
        numpy_helper.from_array(values, f"{weight.name}.int8"),
        numpy_helper.from_array(scales, f"{weight.name}.scale"),
    ]
    names = [tensor.name for tensor in tensors]
    return _Replacement(tensors, [helper.make_node("DequantizeLinear", names, [weight.name], axis=axis)])


def quantized(values: Float32, axis: int) -> tuple[npt.NDArray[np.int8], Float32]:
    """Symmetric int8 with one scale per slice along `axis`: values is about int8 * scale, int8 in [-127, 127]."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scales = np.maximum(np.abs(values).max(axis=others, keepdims=True) / 127, np.finfo(np.float32).tiny)
    return np.rint(values / scales).astype(np.int8), scales.reshape(-1).astype(np.float32)


def _embeddings_by_row(model: ModelProto) -> ModelProto:
    """Keep embedding tables in int8 at run time too: look rows up first, scale them after."""
    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer if is_large(tensor)}
    tensors = list(graph.initializer)
    nodes: list[NodeProto] = []
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" and _axis(node) == 0 else None
        if table is None or sum(table.name in other.input for other in graph.node) > 1:
            nodes.append(node)
            continue
        values, scales = quantized(numpy_helper.to_array(table), axis=0)
        columns = scales.reshape(-1, *[1] * (values.ndim - 1))  # broadcasts over a looked-up row
        tensors.remove(table)
        tensors += [
            numpy_helper.from_array(values, f"{table.name}.int8"),
            numpy_helper.from_array(columns, f"{table.name}.scale"),
        ]
        out, indices = node.output[0], node.input[1]
        nodes += [
            helper.make_node("Gather", [f"{table.name}.int8", indices], [f"{out}.int8"], axis=0),
            helper.make_node("Gather", [f"{table.name}.scale", indices], [f"{out}.scale"], axis=0),
            helper.make_node("Cast", [f"{out}.int8"], [f"{out}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{out}.float", f"{out}.scale"], [out]),
        ]
    _reset(graph, tensors, nodes)
    return model


def is_large(tensor: TensorProto) -> bool:
    """Whether there is something to save: biases, norms and positions weigh little and err much."""
    return tensor.data_type in FLOATS and len(tensor.dims) >= 2 and int(np.prod(tensor.dims)) >= SMALLEST_WEIGHT


def _reads_weight(node: NodeProto, name: str) -> bool:
    """Whether `name` is a weight of a product, a convolution, an LSTM or a table, rather than any other operand."""
    places = {"MatMul": (1,), "Gemm": (1,), "Conv": (1,), "LSTM": (1, 2), "Gather": (0,)}.get(node.op_type, ())
    return any(node.input[place] == name for place in places)


def channel_axis(node: NodeProto, dimensions: int) -> int:
    """The axis of output channels of the weight that a node reads."""
    match node.op_type:
        case "Conv" | "Gather":
            return 0
        case "LSTM":
            return 1  # (directions, gates * width, inputs)
        case "Gemm":
            return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
        case _:
            return dimensions - 1


def _axis(node: NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), 0)


def _reset(graph: GraphProto, tensors: Sequence[TensorProto], nodes: Sequence[NodeProto]) -> None:
    tensors, nodes = [*tensors], [*nodes]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)
