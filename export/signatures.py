"""The inputs and outputs that each part is exported with: those that the runtime gives and reads."""

from typing import Protocol

from export.onnx import Signature
from telme.bundle import MODALITIES, AudioSpec, TextSpec, VisualSpec
from telme.models.fusion import FusionDimensions
from telme.runtime import tensors


class Dimensions(Protocol):
    """Of any encoder's answers. vector: of the utterance. labels: number of emotions."""

    @property
    def vector(self) -> int: ...
    @property
    def labels(self) -> int: ...


def text(spec: TextSpec, dimensions: Dimensions) -> Signature:
    return Signature(tensors.of_text(spec), tensors.answers(dimensions.vector, dimensions.labels))


def audio(spec: AudioSpec, dimensions: Dimensions) -> Signature:
    return Signature(tensors.of_audio(spec), tensors.answers(dimensions.vector, dimensions.labels))


def visual(spec: VisualSpec, dimensions: Dimensions) -> Signature:
    return Signature(tensors.of_visual(spec), tensors.answers(dimensions.vector, dimensions.labels))


def fusion(dimensions: FusionDimensions) -> Signature:
    vectors = {name: getattr(dimensions, name) for name in MODALITIES}
    return Signature(tensors.of_fusion(vectors), (tensors.logits(dimensions.labels),))
