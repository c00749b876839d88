"""The names, shapes and ranges of each part's inputs and outputs."""

from typing import Literal

from export.onnx import Signature
from telme.bundle import AudioSpec, Tensor, TextSpec, VisualSpec
from telme.features.audio import HOP_SAMPLES
from telme.models.audio import AudioDimensions
from telme.models.fusion import FusionDimensions
from telme.models.teacher import TeacherDimensions
from telme.models.visual import VisualDimensions
from telme.runtime.encoders import BATCH_MAX
from telme.runtime.fusion import STUDENTS

DType = Literal["float32", "int64", "bool"]
Shape = tuple[int | str, ...]
Ranges = dict[str, tuple[int, int]]


def text(spec: TextSpec, dimensions: TeacherDimensions) -> Signature:
    ranges = {"tokens": (1, spec.max_tokens)}
    return Signature(
        (
            _tensor("input_ids", "int64", ("batch", "tokens"), ranges),
            _tensor("attention_mask", "int64", ("batch", "tokens"), ranges),
        ),
        _answers(dimensions.vector, dimensions.labels),
    )


def audio(spec: AudioSpec, dimensions: AudioDimensions) -> Signature:
    samples = round(spec.min_s * spec.sample_rate_hz), round(spec.max_s * spec.sample_rate_hz)
    if spec.kind == "log_mel":
        shape: Shape = ("batch", spec.mel_bins, "steps")
        ranges = {"steps": (max(1, samples[0] // HOP_SAMPLES), samples[1] // HOP_SAMPLES)}
    else:
        shape, ranges = ("batch", "steps"), {"steps": samples}
    return Signature(
        (_tensor("features", "float32", shape, ranges), _tensor("mask", "bool", ("batch", "steps"), ranges)),
        _answers(dimensions.vector, dimensions.labels),
    )


def visual(spec: VisualSpec, dimensions: VisualDimensions) -> Signature:
    ranges = {"frames": (1, spec.frames)}
    shape: Shape = ("batch", "frames", spec.channels, spec.size_px, spec.size_px)
    return Signature(
        (_tensor("frames", "float32", shape, ranges), _tensor("mask", "float32", ("batch", "frames"), ranges)),
        _answers(dimensions.vector, dimensions.labels),
    )


def fusion(dimensions: FusionDimensions) -> Signature:
    vectors = tuple(
        _tensor(f"{name}_vector", "float32", ("batch", getattr(dimensions, name))) for name in ("text", *STUDENTS)
    )
    presence = tuple(_tensor(f"{name}_present", "float32", ("batch",)) for name in STUDENTS)
    return Signature(
        (*vectors, *presence, _tensor("beta", "float32", ("batch",))),
        (_tensor("logits", "float32", ("batch", dimensions.labels)),),
    )


def _answers(vector: int, labels: int) -> tuple[Tensor, Tensor]:
    return _tensor("vector", "float32", ("batch", vector)), _tensor("logits", "float32", ("batch", labels))


def _tensor(name: str, dtype: DType, shape: Shape, ranges: Ranges | None = None) -> Tensor:
    return Tensor(name=name, dtype=dtype, shape=shape, ranges={"batch": (1, BATCH_MAX), **(ranges or {})})
