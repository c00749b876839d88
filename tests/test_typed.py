"""Which types a network computes in: products in half precision, norms and sums in float32."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from engine_plans import plans
from onnx import ModelProto, TensorProto, helper

from export.emulation import emulated
from export.errors import ExportError
from export.onnx import to_onnx
from export.part import Plan
from export.typed import HALVES, PRODUCTS, Arithmetic, element_types, typed
from telme.runtime.model import Array

NORMS = {"LayerNormalization", "BatchNormalization", "GroupNormalization", "InstanceNormalization"}
SUMS = {"Softmax", "ReduceSum", "ReduceMean", "ReduceL2", "Pow", "Sqrt", "Div"}
KINDS = {"fp32": TensorProto.FLOAT, **HALVES}


@pytest.fixture(scope="module", params=["text", "audio", "visual", "fusion"])
def plan(request: pytest.FixtureRequest) -> Plan:
    return plans()[request.param]


@pytest.fixture(scope="module")
def model(plan: Plan) -> ModelProto:
    return to_onnx(plan.module, plan.signature, plan.example)


def answers(model: ModelProto, inputs: Mapping[str, Array]) -> Array:
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(["logits"], dict(inputs))
    return np.asarray(found[0])


@pytest.mark.parametrize("arithmetic", ["fp16", "bf16"])
def test_products_are_half_and_norms_are_not(model: ModelProto, arithmetic: Arithmetic) -> None:
    before = model.SerializeToString()
    result = typed(model, arithmetic)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    types = element_types(result)
    found = {node.op_type: types[node.output[0]] for node in result.graph.node}
    assert {found[op] for op in PRODUCTS & found.keys()} == {HALVES[arithmetic]}
    floats = {TensorProto.FLOAT, TensorProto.INT64}  # lengths are summed too
    assert {types[node.output[0]] for node in result.graph.node if node.op_type in NORMS | SUMS} <= floats
    for given, promised in ((result.graph.input, model.graph.input), (result.graph.output, model.graph.output)):
        assert [value.type.tensor_type.elem_type for value in given] == [
            value.type.tensor_type.elem_type for value in promised
        ]


@pytest.mark.parametrize(("arithmetic", "error"), [("fp16", 0.01), ("bf16", 0.08)])
def test_half_products_err_little(plan: Plan, model: ModelProto, arithmetic: Arithmetic, error: float) -> None:
    wanted = answers(model, plan.example)
    np.testing.assert_allclose(answers(emulated(typed(model, arithmetic)), plan.example), wanted, atol=error)


def test_emulation_rounds_as_half_precision_itself_does(plan: Plan, model: ModelProto) -> None:
    half = typed(model, "fp16")
    np.testing.assert_allclose(answers(emulated(half), plan.example), answers(half, plan.example), atol=0.01)


def test_fp32_stays_as_it_is(model: ModelProto) -> None:
    assert typed(model, "fp32") == model


def test_weights_beyond_the_range_become_the_largest_value() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [-3e38, 1.0])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [weight],
    )
    result = typed(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), "fp16")
    (stored,) = result.graph.initializer
    assert onnx.numpy_helper.to_array(stored).tolist() == [[-65504.0], [1.0]]


def test_branches_are_refused() -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], value=helper.make_tensor("v", TensorProto.FLOAT, [], [1.0]))],
        "branch",
        [],
        [value],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "choice",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [value],
    )
    with pytest.raises(ExportError, match="branches or loops"):
        typed(helper.make_model(graph), "fp16")
