"""One part: PyTorch module -> OpenVINO model, compared with the module on real inputs."""

import logging
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import onnx

from export import parity
from export.errors import ExportError
from export.part import Plan, compared
from telme.bundle import Document, Part, Precision, UnfitError, sha256_of
from telme.runtime import openvino as runtime

if TYPE_CHECKING:
    import openvino

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8", "int8-static")


def export(plan: Plan, precision: Precision, folder: Path) -> Part:
    """Write `folder`/<name>.xml, and <name>.bin with its weights.

    Raises ExportError when the module cannot be exported, StrayError when the result strays from it.
    """
    demand(plan.name, precision)
    try:
        library = runtime.load()
    except UnfitError as error:
        raise ExportError(str(error)) from error
    path = folder / f"{plan.name}.xml"
    with TemporaryDirectory() as scratch:
        source = Path(scratch) / "part.onnx"
        onnx.save(plan.model, source)
        model = library.Core().read_model(source)
        if plan.name != "fusion":
            _unguard(model)
        model = _in_precision(model, plan, precision)
        # What is not quantised lies in half precision on disk, but for weights beyond its range.
        library.save_model(model, path, compress_to_fp16=precision != "fp32")
    weights = path.with_suffix(".bin")
    part = Part(
        file=path.name,
        sha256=sha256_of(path),
        bytes=path.stat().st_size + weights.stat().st_size,
        backend="openvino",
        precision=precision,
        inputs=plan.signature.inputs,
        outputs=plan.signature.outputs,
        weights=Document(file=weights.name, sha256=sha256_of(weights)),
    )
    agreement = compared(plan, runtime.OpenVinoModel(path, part, threads=1), part)
    agreement = agreement.model_copy(update={"computed_by": "openvino"})
    parity.demand(plan.name, precision, agreement)
    return part.model_copy(update={"parity": agreement})


def demand(name: str, precision: Precision) -> None:
    """Raises ExportError for a precision that OpenVINO parts do not have."""
    if precision not in PRECISIONS:
        raise ExportError(
            f"OpenVINO parts are made in {', '.join(PRECISIONS)}, not in {precision}; choose --precision {name}=bf16."
        )


def _unguard(model: "openvino.Model") -> None:
    """Take out what OpenVINO adds to attention for a query that may look nowhere, which no encoder's input has."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Select" and node.input_value(0).get_node().get_type_name() == "IsNaN":
            node.output(0).replace(node.input_value(2))


def _in_precision(model: "openvino.Model", plan: Plan, precision: Precision) -> "openvino.Model":
    if precision in ("fp32", "bf16"):
        return model  # the runtime asks for bf16 when it compiles the model
    try:
        import nncf
    except ImportError as missing:
        raise ExportError(f'{precision} needs nncf ({missing}): run `pip install "telme-live[openvino]"`.') from missing
    # Its own set_log_level would also set the level of handlers that others have put there.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    if precision == "int8":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    inputs = plan.calibration()
    attends = any(node.op_type in ("Attention", "Softmax") for node in plan.model.graph.node)
    # Smoothed activations (Xiao et al., "SmoothQuant", 2023) let text and pictures stray further: there are no outliers
    # worth the steps that it takes from the weights.
    smoothing = nncf.AdvancedSmoothQuantParameters(matmul=-1)
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if attends else None,
        # OpenVINO computes attention in float, whatever it is told of what goes into it, and names a convolution that
        # adds a bias otherwise than ONNX does.
        ignored_scope=nncf.IgnoredScope(
            patterns=[f"^{re.escape(name)}(/WithoutBiases)?$" for name in plan.unquantised(plan.model)],
            types=["ScaledDotProductAttention"],
            validate=False,
        ),
        # Ranges hold whatever was met. By default they are means over the inputs, which cut off what attention makes of
        # a few words, where little is averaged.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=smoothing, activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        ),
    )
