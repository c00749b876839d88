"""Ranges of what OpenVINO rounds to int8: they hold all that was met, wherever zero lies in them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from packages import required
from transformers import TimesformerConfig

from export import openvino_part, parity, signatures
from export.parity import Answer
from export.part import Plan
from telme.bundle import VisualSpec
from telme.models.visual import VisualDimensions, VisualStudent
from telme.runtime.model import Array, Model

SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
PICTURES = {"image_size": 32, "patch_size": 8, "num_frames": 4}
LEVELS = 256


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A small TimeSformer with random weights, asked about random pictures."""
    torch.manual_seed(0)
    config = TimesformerConfig(**SIZES, **PICTURES).to_diff_dict() | {"model_type": "timesformer"}
    student = VisualStudent(VisualDimensions(config, vector=32, labels=7)).eval()
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "temporal" in name and parameter.ndim == 2:
                parameter.mul_(10)  # as drawn, little is heard of what pictures say of each other
    random = np.random.default_rng(0)
    frames = random.standard_normal((4, 3, 3, 32, 32)).astype(np.float32)
    example: dict[str, Array] = {"frames": frames, "mask": np.ones((4, 3), np.float32)}
    spec = VisualSpec(kind="frames", size_px=32, channels=3, frames=4, mean=(0.5,) * 3, std=(0.5,) * 3)

    def ask(model: Model, batch: int) -> Sequence[Answer]:
        found = model.run(example)
        return [Answer(vector, logits) for vector, logits in zip(found["vector"], found["logits"], strict=True)]

    return Plan("visual", student, signatures.visual(spec, student.dimensions), example, ask, lambda: [example])


@pytest.mark.parametrize("zero", [126, 127, 128, 129])
def test_pictures_in_int8_do_not_depend_on_the_level_of_zero(
    zero: int, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required("openvino", "openvino")
    required("nncf", "nncf")
    monkeypatch.setattr(parity, "demand", lambda *_: None)
    import openvino

    made = openvino_part.export(plan, "int8-static", tmp_path)
    core = openvino.Core()
    model = core.read_model(tmp_path / made.file)
    rounded = [node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    attended = [node for node in rounded if node.input_value(0).get_node().get_type_name().startswith("Scaled")]
    assert len(attended) >= 5
    for node in attended:
        low, high = (float(node.input_value(i).get_node().get_data()) for i in (1, 2))
        level = (high - low) / (LEVELS - 4)  # wide enough for both ends, wherever zero lies
        for i, end in enumerate((-zero * level, (LEVELS - 1 - zero) * level) * 2, start=1):
            node.input(i).replace_source_output(openvino.opset13.constant(np.float32(end)).output(0))
    found = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(plan.example)
    wanted = [answer.vector for answer in plan.trained_answers]
    for one, other in zip(found["vector"], wanted, strict=True):
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.98


def test_ranges_hold_the_loudest_of_many_inputs(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    required("openvino", "openvino")
    required("nncf", "nncf")
    monkeypatch.setattr(parity, "demand", lambda *_: None)
    import openvino

    pictures = {**plan.example, "frames": plan.example["frames"] / 10}
    once = replace(plan, calibration=lambda: [*[pictures] * 9, plan.example])
    made = openvino_part.export(once, "int8-static", tmp_path)
    model = openvino.Core().read_model(tmp_path / made.file)
    rounded = next(node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize")
    low, high = (float(rounded.input_value(i).get_node().get_data()) for i in (1, 2))
    assert rounded.input_value(0).get_node().get_friendly_name() == "frames"
    # What is moved so that zero has a level of its own is less than one level.
    one_level = (high - low) / (LEVELS - 1)
    assert low - one_level <= plan.example["frames"].min()
    assert plan.example["frames"].max() <= high + one_level
