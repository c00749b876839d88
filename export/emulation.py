"""A typed model as any CPU runs it: float32 arithmetic, rounded to the half type wherever the model has one.

A GPU does just that in its tensor cores, up to the order of sums. ONNX Runtime's CPU kernels know no bfloat16.
"""

from onnx import ModelProto, NodeProto, TensorProto

from export.typed import HALVES, cast, element_types


def emulated(model: ModelProto) -> ModelProto:
    """The same graph, where nodes with half-precision tensors compute in float32 and round what comes out."""
    types = element_types(model)
    result = ModelProto()
    result.CopyFrom(model)
    half = {name for name, kind in types.items() if kind in HALVES.values()}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "Cast" or not half.intersection([*node.input, *node.output]):
            nodes.append(node)
            continue
        wide = NodeProto()
        wide.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in half:
                nodes.append(cast(name, f"{name}.wide.{len(nodes)}", TensorProto.FLOAT))
                wide.input[place] = nodes[-1].output[0]
        rounded = []
        for place, name in enumerate(node.output):
            if name in half:
                wide.output[place] = f"{name}.wide"
                rounded.append(cast(f"{name}.wide", name, types[name]))
        nodes += [wide, *rounded]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result
