"""The names, types, shapes and ranges of each part's inputs and outputs, as the specifications say."""

from collections.abc import Mapping
from typing import Literal

from telme.bundle import MODALITIES, AudioSpec, Bundle, BundleError, Modality, Part, Tensor, TextSpec, VisualSpec
from telme.features.audio import HOP_SAMPLES
from telme.runtime.encoders import BATCH_MAX, batch_max
from telme.runtime.fusion import STUDENTS

DType = Literal["float32", "int64", "bool"]
Shape = tuple[int | str, ...]
Ranges = dict[str, tuple[int, int]]
Tensors = tuple[Tensor, ...]


def of_text(spec: TextSpec) -> Tensors:
    ranges = {"tokens": (1, spec.max_tokens)}
    return (
        _tensor("input_ids", "int64", ("batch", "tokens"), ranges),
        _tensor("attention_mask", "int64", ("batch", "tokens"), ranges),
    )


def of_audio(spec: AudioSpec) -> Tensors:
    samples = round(spec.min_s * spec.sample_rate_hz), round(spec.max_s * spec.sample_rate_hz)
    if spec.kind == "log_mel":
        shape: Shape = ("batch", spec.mel_bins, "steps")
        ranges = {"steps": (max(1, samples[0] // HOP_SAMPLES), samples[1] // HOP_SAMPLES)}
    else:
        shape, ranges = ("batch", "steps"), {"steps": samples}
    return _tensor("features", "float32", shape, ranges), _tensor("mask", "bool", ("batch", "steps"), ranges)


def of_visual(spec: VisualSpec) -> Tensors:
    ranges = {"frames": (1, spec.frames)}
    shape: Shape = ("batch", "frames", spec.channels, spec.size_px, spec.size_px)
    return _tensor("frames", "float32", shape, ranges), _tensor("mask", "float32", ("batch", "frames"), ranges)


def of_fusion(vectors: Mapping[Modality, int]) -> Tensors:
    """vectors: modality -> length of its utterance vector."""
    return (
        *(_tensor(f"{name}_vector", "float32", ("batch", vectors[name])) for name in MODALITIES),
        *(_tensor(f"{name}_present", "float32", ("batch",)) for name in STUDENTS),
        _tensor("beta", "float32", ("batch",)),
    )


def answers(vector: int, labels: int) -> Tensors:
    """Outputs of an encoder."""
    return _tensor("vector", "float32", ("batch", vector)), logits(labels)


def logits(labels: int) -> Tensor:
    return _tensor("logits", "float32", ("batch", labels))


def demand(bundle: Bundle) -> None:
    """Raises BundleError unless the parts take and give what the bundle's specifications make of an utterance."""
    manifest = bundle.manifest
    labels = len(manifest.labels)
    vectors = {name: _vector(bundle, name, getattr(manifest.parts, name)) for name in MODALITIES}
    wanted = {
        "text": (of_text(manifest.text), answers(vectors["text"], labels)),
        "audio": (of_audio(manifest.audio), answers(vectors["audio"], labels)),
        "visual": (of_visual(manifest.visual), answers(vectors["visual"], labels)),
        "fusion": (of_fusion(vectors), (logits(labels),)),
    }
    for name, (inputs, outputs) in wanted.items():
        part: Part = getattr(manifest.parts, name)
        _demand_tensors(bundle, name, part, part.inputs, inputs)
        _demand_tensors(bundle, name, part, part.outputs, outputs)


def _vector(bundle: Bundle, name: str, part: Part) -> int:
    size = next((tensor.shape[-1] for tensor in part.outputs if tensor.name == "vector" and tensor.shape), None)
    if not isinstance(size, int):
        raise BundleError(f"The {name} part of {bundle.folder} gives no vector of a fixed length; export it again.")
    return size


def _demand_tensors(bundle: Bundle, name: str, part: Part, described: Tensors, wanted: Tensors) -> None:
    found = {tensor.name: tensor for tensor in described}
    if found.keys() != {tensor.name for tensor in wanted}:
        raise BundleError(
            f"The {name} part of {bundle.folder} has {', '.join(sorted(found)) or 'no tensors'} where the manifest's "
            f"specifications need {', '.join(sorted(tensor.name for tensor in wanted))}; export it again."
        )
    for tensor in wanted:
        own = found[tensor.name]
        if own.dtype != tensor.dtype or not _fits(own, tensor, batch_max(part)):
            raise BundleError(
                f"The {name} part of {bundle.folder} has {tensor.name} as {_described(own)} where the manifest's "
                f"specifications need {_described(tensor)}; export it again."
            )


def _fits(own: Tensor, wanted: Tensor, batch: int) -> bool:
    """Whether fixed sizes are the same, and those that vary may be all that is wanted."""
    needed = {**wanted.ranges, "batch": (1, batch)}
    return len(own.shape) == len(wanted.shape) and all(
        size == asked if isinstance(asked, int) else isinstance(size, str) and _covers(own, size, needed[asked])
        for size, asked in zip(own.shape, wanted.shape, strict=True)
    )


def _covers(own: Tensor, dimension: str, needed: tuple[int, int]) -> bool:
    low, high = own.ranges.get(dimension, (1, 0))
    return low <= needed[0] and needed[1] <= high


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} ({', '.join(_size(tensor, size) for size in tensor.shape)})"


def _size(tensor: Tensor, size: int | str) -> str:
    if isinstance(size, int):
        return str(size)
    return "{} {} to {}".format(size, *tensor.ranges[size]) if size in tensor.ranges else f"{size} without range"


def _tensor(name: str, dtype: DType, shape: Shape, ranges: Ranges | None = None) -> Tensor:
    return Tensor(name=name, dtype=dtype, shape=shape, ranges={"batch": (1, BATCH_MAX), **(ranges or {})})
