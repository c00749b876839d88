"""Gives an ONNX model the types that a strongly typed network computes in: products in half precision, norms not.

TensorRT 11 has no precision flags: what a layer computes in is the type of its inputs. The rule here is PyTorch's
autocast: matrix products, convolutions and attention in half precision; norms, softmax, sums and roots in float32;
whatever moves or combines values in the widest type among those it is given. Inputs and outputs stay as they are.
"""

from typing import Literal

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.errors import ExportError

Arithmetic = Literal["fp32", "fp16", "bf16"]

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "Attention"})
# Half of them if all that is computed among their inputs is; the others compute in float32.
# fmt: off
FOLLOWING = frozenset({
    "Add", "AveragePool", "Clip", "Concat", "Erf", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Gelu",
    "Identity", "Max", "MaxPool", "Min", "Mul", "Relu", "Reshape", "Sigmoid", "Slice", "Split", "Squeeze", "Sub",
    "Tanh", "Transpose", "Unsqueeze", "Where",
})
# fmt: on
HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST = {"fp16": 65504.0, "bf16": float.fromhex("0x1.fep127")}


def typed(model: ModelProto, arithmetic: Arithmetic) -> ModelProto:
    """The same model with half-precision products; `model` itself is left alone.

    A weight beyond the half type's range becomes its largest value, as masks are made of such.
    Raises ExportError for a graph with branches or loops, which no part of TelME has.
    """
    result = ModelProto()
    result.CopyFrom(model)
    if arithmetic != "fp32":
        _Typing(result, arithmetic).apply()
    return result


class _Typing:
    """One pass over a graph, whose nodes stand in the order of computation."""

    def __init__(self, model: ModelProto, arithmetic: Literal["fp16", "bf16"]) -> None:
        if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
            raise ExportError("The model has branches or loops, which cannot be given types; export it in fp32.")
        self._graph = model.graph
        self._half = HALVES[arithmetic]
        self._largest = LARGEST[arithmetic]
        types = element_types(model)
        self._floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._halved: set[str] = set()  # tensors that have become half
        self._casts: dict[tuple[str, int], str] = {}  # tensor, type -> the name under which it has that type
        self._nodes: list[NodeProto] = []

    def apply(self) -> None:
        for node in list(self._graph.node):
            self._type(node)
        for output in self._graph.output:
            if output.name in self._halved:
                self._restore(output.name)
        used = {name for node in self._nodes for name in node.input}
        weights = [tensor for name, tensor in self._weights.items() if name in used]
        for value in self._graph.value_info:  # the exporter knows types that shape inference does not find
            if value.name in self._halved:
                value.type.tensor_type.elem_type = self._half
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(weights)

    def _type(self, node: NodeProto) -> None:
        half = self._is_half(node)
        for place, name in enumerate(node.input):
            if name in self._floats and (name in self._halved) != half:
                node.input[place] = self._as(name, self._half if half else TensorProto.FLOAT)
        self._nodes.append(node)
        if half:
            self._halved.update(name for name in node.output if name in self._floats)

    def _is_half(self, node: NodeProto) -> bool:
        if node.op_type in PRODUCTS:
            return True
        computed = [name for name in node.input if name in self._floats and name not in self._weights]
        return node.op_type in FOLLOWING and bool(computed) and self._halved.issuperset(computed)

    def _as(self, name: str, kind: int) -> str:
        if (name, kind) not in self._casts:
            self._casts[name, kind] = f"{name}.{TensorProto.DataType.Name(kind).lower()}"
            if name in self._weights:
                self._store(self._weights[name], self._casts[name, kind])
            else:
                self._nodes.append(cast(name, self._casts[name, kind], kind))
        return self._casts[name, kind]

    def _store(self, weight: TensorProto, name: str) -> None:
        values = np.clip(numpy_helper.to_array(weight), -self._largest, self._largest)
        self._weights[name] = numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(self._half)), name)

    def _restore(self, name: str) -> None:
        """Give an output back the type that the graph promises."""
        inner = f"{name}.half"
        for node in self._nodes:
            for names in (node.input, node.output):
                for place, found in enumerate(names):
                    if found == name:
                        names[place] = inner
        self._nodes.append(cast(inner, name, TensorProto.FLOAT))


def element_types(model: ModelProto) -> dict[str, int]:
    """Every tensor's element type."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    return values | {tensor.name: tensor.data_type for tensor in graph.initializer}


def cast(name: str, output: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [name], [output], name=output, to=kind)
