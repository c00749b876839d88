"""Resemblyzer's speaker encoder -> the folder that telme.runtime.voiceprint runs."""

import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from pydantic import ValidationError
from torch import nn

from export.aside import aside, is_empty
from export.errors import ExportError
from export.onnx import Signature, check
from export.precision import convert
from telme.bundle import MANIFEST, BundleError, Part, Precision, Tensor, read_manifest, sha256_of
from telme.models.sources import SourceError, locate
from telme.voice import VoiceManifest, VoiceSpec

SOURCE = "package:resemblyzer/pretrained.pt"
FILE = "encoder.onnx"
LAYERS = 3
WIDTH = 256
SPEC = VoiceSpec(mel_bins=40, level_dbfs=-30, window_frames=160, step_frames=77, coverage=0.75, windows_max=8)
SIGNATURE = Signature(
    inputs=(Tensor(name="mel", dtype="float32", shape=("windows", "frames", SPEC.mel_bins)),),
    outputs=(Tensor(name="vector", dtype="float32", shape=("windows", WIDTH)),),
)
OPSET = 22
IR_VERSION = 10
PRECISION: Precision = "fp16"

Float32 = npt.NDArray[np.float32]


class SpeakerEncoder(nn.Module):
    """Resemblyzer's network, with its names of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SPEC.mel_bins, WIDTH, LAYERS, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """(windows, frames, mel_bins) -> (windows, WIDTH), each of length 1."""
        _, (hidden, _) = self.lstm(mel)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)


def export(source: str, output: Path, precision: Precision = PRECISION) -> VoiceManifest:
    """Write the encoder and its manifest; where `output` holds an earlier one, its other files stay as they are.

    source: Resemblyzer's `pretrained.pt`, as telme.models.sources.locate takes it.
    Raises ExportError when it is not that, when `output` holds anything else, and when it cannot be written.
    """
    path, encoder = read(source)
    _demand_place(output)
    with aside(output, "the speaker encoder") as folder:
        if output.exists():
            shutil.copytree(output, folder, dirs_exist_ok=True)
        model = folder / FILE
        onnx.save(convert(to_onnx(encoder), precision), model)
        manifest = _manifest(path, model, precision)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _demand_place(output: Path) -> None:
    if not output.exists() or is_empty(output):
        return
    try:
        VoiceManifest.model_validate_json(read_manifest(output))
    except (BundleError, ValidationError) as error:
        raise ExportError(
            f"{output} exists and holds no speaker encoder; choose another --output, or remove it."
        ) from error


def _manifest(source: Path, model: Path, precision: Precision) -> VoiceManifest:
    return VoiceManifest(
        source="Resemblyzer 0.1.4, pretrained.pt",
        source_sha256=sha256_of(source),
        licence="Apache-2.0",
        encoder=Part(
            file=FILE,
            sha256=sha256_of(model),
            bytes=model.stat().st_size,
            precision=precision,
            inputs=SIGNATURE.inputs,
            outputs=SIGNATURE.outputs,
        ),
        voice=SPEC,
    )


def read(source: str) -> tuple[Path, SpeakerEncoder]:
    """The checkpoint's path and the network with its weights. Raises ExportError when it is not Resemblyzer's."""
    encoder = SpeakerEncoder()
    try:
        path = Path(locate(source))
        weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})
    except (SourceError, OSError, pickle.UnpicklingError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"{source} is not Resemblyzer's pretrained.pt ({reason}); take it from {SOURCE}.") from error
    return path, encoder.eval()


def to_onnx(encoder: SpeakerEncoder) -> ModelProto:
    """The network as one LSTM operator per layer; PyTorch's exporter would take the gates apart at each call."""
    weights = {name: value.numpy() for name, value in encoder.state_dict().items()}
    tensors = [numpy_helper.from_array(np.array([1]), "second")]
    nodes = [helper.make_node("Transpose", ["mel"], ["layer0"], perm=[1, 0, 2])]
    for layer in range(LAYERS):
        tensors += [numpy_helper.from_array(value, name) for name, value in _layer(weights, layer).items()]
        given = [f"layer{layer}", f"w{layer}", f"r{layer}", f"b{layer}"]
        made = [f"all{layer}", f"last{layer}"]
        nodes.append(helper.make_node("LSTM", given, made, hidden_size=WIDTH))
        if layer < LAYERS - 1:
            nodes.append(helper.make_node("Squeeze", [f"all{layer}", "second"], [f"layer{layer + 1}"]))
    tensors += [numpy_helper.from_array(weights[f"linear.{name}"], name) for name in ("weight", "bias")]
    nodes += [
        helper.make_node("Squeeze", [f"last{LAYERS - 1}", "first"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "weight", "bias"], ["projected"], transB=1),
        helper.make_node("Relu", ["projected"], ["positive"]),
        helper.make_node("LpNormalization", ["positive"], ["vector"], axis=1, p=2),
    ]
    tensors.append(numpy_helper.from_array(np.array([0]), "first"))
    inputs, outputs = _values(SIGNATURE.inputs), _values(SIGNATURE.outputs)
    graph = helper.make_graph(nodes, "speaker_encoder", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    check(model, SIGNATURE)
    return model


def _layer(weights: Mapping[str, Float32], layer: int) -> dict[str, Float32]:
    """One layer's weights in ONNX's form: a first dimension for the direction, both biases in one row."""
    inputs, recurrent = (_gates(weights[f"lstm.weight_{kind}_l{layer}"]) for kind in ("ih", "hh"))
    biases = [_gates(weights[f"lstm.bias_{kind}_l{layer}"]) for kind in ("ih", "hh")]
    return {f"w{layer}": inputs[None], f"r{layer}": recurrent[None], f"b{layer}": np.concatenate(biases)[None]}


def _gates(rows: Float32) -> Float32:
    """PyTorch's order, input, forget, cell, output, to ONNX's, input, output, forget, cell."""
    gate = rows.reshape(4, WIDTH, *rows.shape[1:])
    return gate[[0, 3, 1, 2]].reshape(rows.shape)


def _values(tensors: Sequence[Tensor]) -> list[ValueInfoProto]:
    return [helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.shape) for tensor in tensors]
