"""Scales fixed at export, for speech with pauses: how far data2vec's seven convolutions stray in int8.

Where the first state is read, as in the paper, the export computes them as matrix products; else as convolutions.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    import openvino

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
POSITIONS = {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5, "num_conv_pos_embedding_groups": 2}


@pytest.fixture(scope="module", params=["first", "mean"])
def plan(request: pytest.FixtureRequest) -> Plan:
    """A small data2vec with random weights, asked about speech of which the last half is 60 dB quieter."""
    torch.manual_seed(0)
    backbone = Data2VecDimensions({**SIZES, **POSITIONS, "conv_dim": [64] * 7})
    student = AudioStudent(AudioDimensions(backbone, vector=32, labels=7, pooling=request.param)).eval()
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


@pytest.mark.parametrize(
    ("make", "precision"),
    [(part.export, "int8-static"), (part.export, "int8-dynamic"), (openvino_part.export, "int8-static")],
    ids=["onnxruntime, static", "onnxruntime, dynamic", "openvino"],
)
def test_pauses_do_not_lead_astray(
    make: Callable[[Plan, Precision, Path], Part],
    precision: Precision,
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    required("openvino", "openvino")
    required("nncf", "nncf")
    monkeypatch.setattr(parity, "demand", lambda *_: None)
    agreement = make(plan, precision, tmp_path).parity
    assert agreement is not None
    # Weights that are random and few quantise worse than trained ones.
    assert agreement.min_cosine > 0.95


def test_with_all_convolutions_in_int8_they_would(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "demand", lambda *_: None)
    monkeypatch.setattr(Plan, "unquantised", lambda *_: [])
    agreement = part.export(plan, "int8-static", tmp_path).parity
    assert agreement is not None
    assert agreement.min_cosine < 0.8


def test_openvino_leaves_the_first_two(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "demand", lambda *_: None)
    assert in_int8(plan, tmp_path) == [False] * 2 + [True] * 5


def test_openvino_leaves_the_first_two_of_whisper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "demand", lambda *_: None)
    first, second, third, *_ = in_int8(plans()["audio"], tmp_path)
    assert (first, second, third) == (False, False, True)


def in_int8(plan: Plan, folder: Path) -> list[bool]:
    """Whether the first seven products and convolutions that OpenVINO computes read int8."""
    required("openvino", "openvino")
    required("nncf", "nncf")
    import openvino

    made = openvino_part.export(plan, "int8-static", folder)
    operations = openvino.Core().read_model(folder / made.file).get_ordered_ops()
    products = [operation for operation in operations if operation.get_type_name() in ("Convolution", "MatMul")]
    return [_source(product).get_type_name() == "FakeQuantize" for product in products[:7]]


def _source(product: "openvino.Node") -> "openvino.Node":
    """What computes the values that a product reads, which may be laid out anew for it."""
    node = product.input_value(0).get_node()
    while node.get_type_name() in ("Concat", "StridedSlice"):
        node = node.input_value(0).get_node()
    return node


def test_engines_leave_the_same(plan: Plan) -> None:
    half = typed(plan.model, "fp16")
    first = plan.unquantised(half)
    model = explicit(half, "int8", plan.calibration(), first)
    products = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul")][:7]
    assert [node.name for node in products if not node.input[0].endswith(".int8")] == first


def test_only_sound_keeps_products_in_float(plan: Plan) -> None:
    assert len(plan.unquantised(plan.model)) == 2
    assert replace(plan, name="visual").unquantised(plan.model) == []
