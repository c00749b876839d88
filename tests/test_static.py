"""Scales fixed at export, for speech with pauses: how far data2vec's seven convolutions stray in int8."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_plans import plans
from packages import required

from export import openvino_part, parity, part, signatures
from export.explicit import explicit
from export.parity import Answer
from export.part import Plan
from export.torch_model import TorchModel
from export.typed import typed
from telme.bundle import AudioSpec, Part, Precision
from telme.corpora import waveforms
from telme.features.audio import AudioFeatures
from telme.models.audio import AudioDimensions, AudioStudent, Data2VecDimensions
from telme.runtime.encoders import AudioEncoder
from telme.runtime.model import Model

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
POSITIONS = {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5, "num_conv_pos_embedding_groups": 2}


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A small data2vec with random weights, asked about speech of which the last half is 60 dB quieter."""
    torch.manual_seed(0)
    backbone = Data2VecDimensions({**SIZES, **POSITIONS, "conv_dim": [64] * 7})
    student = AudioStudent(AudioDimensions(backbone, vector=32, labels=7)).eval()
    spec = AudioSpec(kind="waveform", max_s=10.0)
    signature = signatures.audio(spec, student.dimensions)
    speech = waveforms.read(Path(__file__).parent / "data" / "jfk.flac")
    pauses = [speech[start : start + 32_000] * np.repeat([1.0, 1e-3], 16_000) for start in range(0, 128_000, 16_000)]

    def encoder(model: Model, batch: int) -> AudioEncoder:
        return AudioEncoder(model, batch, AudioFeatures(spec))

    def ask(model: Model, batch: int) -> Sequence[Answer]:
        said = encoder(model, batch).encode(pauses[::2])
        return [Answer(one.vector, one.logits) for one in said if one is not None]

    trained = encoder(TorchModel(student, signature), 1)
    features = [item for sound in pauses[1::2] if (item := trained.extract(sound)) is not None]
    features[0] = features[0][:20_000]  # a length of its own, for tracing
    return Plan(
        "audio",
        student,
        signature,
        trained.collate(features[:3]),
        ask,
        lambda: [trained.collate([f]) for f in features],
    )


@pytest.mark.parametrize("make", [part.export, openvino_part.export], ids=["onnxruntime", "openvino"])
def test_pauses_do_not_lead_astray(
    make: Callable[[Plan, Precision, Path], Part], plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required("openvino", "openvino")
    required("nncf", "nncf")
    monkeypatch.setattr(parity, "demand", lambda *_: None)
    agreement = make(plan, "int8-static", tmp_path).parity
    assert agreement is not None
    # Weights that are random and few quantise worse than trained ones.
    assert agreement.min_cosine > 0.95


def test_with_all_convolutions_in_int8_they_would(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "demand", lambda *_: None)
    monkeypatch.setattr(Plan, "unquantised", lambda *_: [])
    agreement = part.export(plan, "int8-static", tmp_path).parity
    assert agreement is not None
    assert agreement.min_cosine < 0.8


@pytest.mark.parametrize("family", ["data2vec", "whisper"])
def test_openvino_leaves_the_first_two_convolutions(
    family: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required("openvino", "openvino")
    required("nncf", "nncf")
    import openvino

    monkeypatch.setattr(parity, "demand", lambda *_: None)
    made = openvino_part.export(plan if family == "data2vec" else plans()["audio"], "int8-static", tmp_path)
    operations = openvino.Core().read_model(tmp_path / made.file).get_ordered_ops()
    reads = [
        operation.input_value(0).get_node().get_type_name()
        for operation in operations
        if operation.get_type_name() == "Convolution"
    ]
    assert "FakeQuantize" not in reads[:2]
    assert all(kind == "FakeQuantize" for kind in reads[2:])


def test_engines_leave_the_same_convolutions(plan: Plan) -> None:
    half = typed(plan.model, "fp16")
    first = plan.unquantised(half)
    model = explicit(half, "int8", plan.calibration(), first)
    reads = {node.name: node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    assert [name for name, operand in reads.items() if not operand.endswith(".int8")] == first


def test_only_sound_keeps_convolutions_in_float(plan: Plan) -> None:
    assert len(plan.unquantised(plan.model)) == 2
    assert replace(plan, name="visual").unquantised(plan.model) == []
