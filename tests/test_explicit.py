"""Eight-bit products: which there are, how far they stray, and that TensorRT takes them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from engine_plans import plans
from onnx import ModelProto, TensorProto
from packages import required

from export import engine_part, parity
from export.emulation import emulated
from export.errors import ExportError
from export.explicit import KINDS, Eight, explicit
from export.onnx import to_onnx
from export.part import PartName, Plan
from export.tensorrt import Builder, Options, parsed
from export.torch_model import TorchModel
from export.typed import element_types, typed
from telme.bundle import Precision, UnfitError
from telme.runtime import gpu, tensorrt_library
from telme.runtime.tensorrt_library import Complaints

ERRORS: dict[Eight, float] = {"int8": 0.2, "fp8": 0.3}  # of logits of about 1, by few and random weights
RTX = Options("tensorrt-rtx", compute_capabilities=("8.9", "12.0"))


@pytest.fixture(scope="module", params=["text", "audio", "visual"])
def plan(request: pytest.FixtureRequest) -> Plan:
    return plans()[request.param]


@pytest.fixture(scope="module")
def half(plan: Plan) -> ModelProto:
    return typed(to_onnx(plan.module, plan.signature, plan.example), "fp16")


@pytest.mark.parametrize("eight", KINDS)
def test_products_by_large_weights_read_eight_bits(plan: Plan, half: ModelProto, eight: Eight) -> None:
    before = half.SerializeToString()
    result = explicit(half, eight, plan.calibration())
    assert half.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    types = element_types(result)
    made = {node.output[0]: node for node in result.graph.node}
    found = [
        node
        for node in result.graph.node
        if node.input and (first := made.get(node.input[0])) is not None
        if first.op_type == "DequantizeLinear"
    ]
    assert found
    for node in found:
        assert node.op_type in ("MatMul", "Gemm", "Conv")
        for operand in node.input[:2]:
            assert made[operand].op_type == "DequantizeLinear"
            assert types[made[operand].input[0]] == KINDS[eight].type
            assert types[operand] == TensorProto.FLOAT16
    zeros = [tensor for tensor in result.graph.initializer if tensor.name.endswith(".zero")]
    assert zeros
    assert all(not np.any(onnx.numpy_helper.to_array(tensor).astype(np.float32)) for tensor in zeros)


@pytest.mark.parametrize("eight", KINDS)
def test_they_err_little(plan: Plan, half: ModelProto, eight: Eight) -> None:
    model = emulated(explicit(half, eight, plan.calibration()))
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(["logits"], plan.example)
    wanted = TorchModel(plan.module, plan.signature).run(plan.example)["logits"]
    np.testing.assert_allclose(found, wanted, atol=ERRORS[eight])
    assert np.abs(found - wanted).max() > 0  # rounding did take place


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise UnfitError("There is no usable NVIDIA GPU here.")

    monkeypatch.setattr(gpu, "device", none)


@pytest.mark.slow
@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("precision", ["int8-static", "fp8"])
@pytest.mark.parametrize("name", ["text", "audio", "visual"])
def test_a_real_engine_is_built(
    name: PartName, precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required("tensorrt_rtx", "tensorrt-rtx")
    monkeypatch.setattr(parity, "demand", lambda *_: None)
    part = engine_part.export(plans()[name], precision, tmp_path, Builder(RTX), RTX)
    assert part.precision == precision
    assert part.engine is not None
    assert part.engine.compute_capabilities == ("8.9", "12.0")
    assert part.parity is not None
    assert part.parity.max_abs_error > 0


@pytest.mark.parametrize("eight", KINDS)
def test_the_network_quantises_as_the_model_says(plan: Plan, half: ModelProto, eight: Eight) -> None:
    required("tensorrt_rtx", "tensorrt-rtx")
    library = tensorrt_library.load("tensorrt-rtx")
    complaints = Complaints(library)
    builder = library.Builder(complaints.logger)
    model = explicit(half, eight, plan.calibration())
    network = parsed(library, builder, model.SerializeToString(), complaints)
    layers = [network.get_layer(place) for place in range(network.num_layers)]
    rounding = [layer for layer in layers if layer.type.name == "QUANTIZE"]
    assert len(rounding) == sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert {layer.get_output(0).dtype.name for layer in rounding} == {"INT8" if eight == "int8" else "FP8"}


def test_fp8_needs_a_gpu_that_has_it() -> None:
    engine_part.demand_fp8("text", ["8.9", "12.0"])
    with pytest.raises(ExportError, match=r"would be for 8.6 too; name newer ones .* or choose text=int8-static"):
        engine_part.demand_fp8("text", ["8.6", "8.9"])
