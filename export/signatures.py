"""The inputs and outputs that each part is exported with: those that the runtime gives and reads."""

from export.onnx import Signature
from telme.bundle import MODALITIES, AudioSpec, TextSpec, VisualSpec
from telme.models.audio import AudioDimensions
from telme.models.fusion import FusionDimensions
from telme.models.teacher import TeacherDimensions
from telme.models.visual import VisualDimensions
from telme.runtime import tensors


def text(spec: TextSpec, dimensions: TeacherDimensions) -> Signature:
    return Signature(tensors.of_text(spec), tensors.answers(dimensions.vector, dimensions.labels))


def audio(spec: AudioSpec, dimensions: AudioDimensions) -> Signature:
    return Signature(tensors.of_audio(spec), tensors.answers(dimensions.vector, dimensions.labels))


def visual(spec: VisualSpec, dimensions: VisualDimensions) -> Signature:
    return Signature(tensors.of_visual(spec), tensors.answers(dimensions.vector, dimensions.labels))


def fusion(dimensions: FusionDimensions) -> Signature:
    vectors = {name: getattr(dimensions, name) for name in MODALITIES}
    return Signature(tensors.of_fusion(vectors), (tensors.logits(dimensions.labels),))
