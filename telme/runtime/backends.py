"""Which class runs a part of a bundle."""

from pathlib import Path

from telme.bundle import Part
from telme.runtime.model import Model
from telme.runtime.onnxruntime import OnnxModel
from telme.runtime.openvino import OpenVinoModel
from telme.runtime.tensorrt import TensorRtModel


def load(path: Path, part: Part, threads: int) -> Model:
    """threads: cores that one call may use; an engine uses the GPU.

    Raises UnfitError where this machine lacks what the part needs, BundleError when it cannot be used at all.
    """
    match part.backend:
        case "onnxruntime":
            return OnnxModel(path, part, threads)
        case "openvino":
            return OpenVinoModel(path, part, threads)
        case "tensorrt" | "tensorrt-rtx":
            return TensorRtModel(path, part)
