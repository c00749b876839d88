"""config.pbtxt of each model in a Triton repository, made with Triton's own protobuf schema."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from telme.bundle import MODALITIES, Manifest, Modality, Part, Tensor
from telme.labels import valence_arousal
from telme.runtime.encoders import batch_max

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput, ModelOutput

# Which of a modality's inputs says where there is something.
MASKS: dict[Modality, str] = {"text": "attention_mask", "audio": "mask", "visual": "mask"}
LABELS = "labels.txt"
TYPES = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "int32": "INT32", "bool": "BOOL"}


def model_name(manifest: Manifest, part: str) -> str:
    """What a part is called in the repository; the model that clients ask is called as the bundle is."""
    return f"{manifest.name}_{part}"


def part_config(name: str, part: Part) -> "ModelConfig":
    """A part for Triton's ONNX Runtime or TensorRT backend."""
    from tritonclient.grpc import model_config_pb2 as schema

    config = _config(name, "onnxruntime" if part.engine is None else "tensorrt", _batch(part))
    config.input.extend(_input(tensor) for tensor in part.inputs)
    config.output.extend(_output(tensor) for tensor in part.outputs)
    if part.engine is None:
        config.default_model_filename = "model.onnx"
        config.instance_group.add(count=1, kind=schema.ModelInstanceGroup.KIND_CPU)
        config.parameters["intra_op_thread_count"].string_value = "1"  # as the recogniser's default
    else:
        config.default_model_filename = "model.plan"
        profiles = [str(place) for place in range(len(part.engine.profiles))]
        config.instance_group.add(count=1, kind=schema.ModelInstanceGroup.KIND_GPU, profile=profiles)
    return config


def recogniser_config(manifest: Manifest) -> "ModelConfig":
    """The model that clients ask, for Triton's Python backend; every input may be left out."""
    from tritonclient.grpc import model_config_pb2 as schema

    parts = {modality: getattr(manifest.parts, modality) for modality in MODALITIES}
    config = _config(manifest.name, "python", min(_batch(part) for part in (*parts.values(), manifest.parts.fusion)))
    config.default_model_filename = "model.py"
    config.instance_group.add(count=1, kind=schema.ModelInstanceGroup.KIND_CPU)
    for modality, part in parts.items():
        for tensor in part.inputs:
            config.input.append(_input(tensor.model_copy(update={"name": f"{modality}_{tensor.name}"}), optional=True))
    config.input.append(_input(_numbers("text_confidence", 1), optional=True))
    for name in ("scores", *(f"{modality}_scores" for modality in MODALITIES)):
        output = _output(_numbers(name, len(manifest.labels)))
        output.label_filename = LABELS
        config.output.append(output)
    config.output.append(_output(_numbers("valence_arousal", 2)))
    config.parameters["rules"].string_value = json.dumps(_rules(manifest))
    return config


def _rules(manifest: Manifest) -> dict[str, object]:
    """What export/triton_model.py must know of the bundle."""
    labels = manifest.labels
    return {
        "labels": labels,
        "modalities": {
            modality: {
                "model": model_name(manifest, modality),
                "inputs": [tensor.name for tensor in getattr(manifest.parts, modality).inputs],
                "mask": MASKS[modality],
                "vector": next(
                    tensor.shape[-1] for tensor in getattr(manifest.parts, modality).outputs if tensor.name == "vector"
                ),
            }
            for modality in MODALITIES
        },
        "fusion": model_name(manifest, "fusion"),
        "temperatures": manifest.calibration.model_dump(),
        "beta": manifest.fusion.beta,
        "unsure": manifest.fusion.unsure.model_dump() if manifest.fusion.unsure else None,
        "valence_arousal": [valence_arousal(one, labels) for one in np.eye(len(labels))],
    }


def _config(name: str, backend: str, batch: int) -> "ModelConfig":
    from tritonclient.grpc import model_config_pb2 as schema

    config = schema.ModelConfig(name=name, backend=backend, max_batch_size=batch)
    config.version_policy.latest.num_versions = 1
    if batch > 1:
        config.dynamic_batching.SetInParent()  # Triton joins waiting requests, where their shapes are the same
    return config


def _batch(part: Part) -> int:
    """The most utterances that the part takes at once."""
    limits = [tensor.ranges["batch"][1] for tensor in part.inputs]
    return min(*limits, batch_max(part))


def _input(tensor: Tensor, optional: bool = False) -> "ModelInput":
    from tritonclient.grpc import model_config_pb2 as schema

    made = schema.ModelInput(
        name=tensor.name, data_type=_type(tensor), dims=_dimensions(tensor.shape), optional=optional
    )
    if len(tensor.shape) == 1:
        made.reshape.SetInParent()  # Triton has no tensors without dimensions but the batch; to the part it is one
    return made


def _output(tensor: Tensor) -> "ModelOutput":
    from tritonclient.grpc import model_config_pb2 as schema

    return schema.ModelOutput(name=tensor.name, data_type=_type(tensor), dims=_dimensions(tensor.shape))


def _type(tensor: Tensor) -> int:
    from tritonclient.grpc import model_config_pb2 as schema

    return int(schema.DataType.Value(f"TYPE_{TYPES[tensor.dtype]}"))


def _dimensions(shape: Sequence[int | str]) -> list[int]:
    """Without the batch, which Triton adds; -1 where they vary."""
    return [size if isinstance(size, int) else -1 for size in shape[1:]] or [1]


def _numbers(name: str, count: int) -> Tensor:
    return Tensor(name=name, dtype="float32", shape=("batch", count))
