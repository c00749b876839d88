"""One part: PyTorch module -> TensorRT engine, compared with the module on real inputs."""

import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast, get_args

import onnx
from onnx import ModelProto

from export import parity
from export.emulation import emulated
from export.errors import ExportError
from export.explicit import Eight, explicit
from export.lean import lean
from export.onnx import OPSET, to_onnx
from export.part import Plan, compared
from export.profiles import Profile, profiles
from export.tensorrt import Builder, Options
from export.typed import Arithmetic, typed
from telme.bundle import FP8_SINCE, Document, Parity, Part, Precision, UnfitError, numbers, sha256_of
from telme.runtime.onnxruntime import OnnxModel
from telme.runtime.tensorrt import TensorRtModel

log = logging.getLogger(__name__)

# Attention is one operator from opset 23 on, which TensorRT takes in half precision and with usual head sizes only.
# The fusion's heads may have any size, and its attention is over one step, so taking it apart costs nothing.
OPSET_APART = 20
# How precisions name what export/explicit.py does. The rest of such an engine computes in half precision.
EIGHTS: Mapping[str, Eight] = {"int8-static": "int8", "fp8": "fp8"}


def export(plan: Plan, precision: Precision, folder: Path, builder: Builder, options: Options) -> Part:
    """Write `folder`/<name>.engine, and the ONNX model with its weights where the engine has none.

    The comparison runs the engine; where it was built without a GPU, ONNX Runtime runs its network, rounded alike.
    Raises ExportError when the part cannot be built, or strays from the module.
    """
    kind = arithmetic(plan.name, precision)
    opset = OPSET_APART if kind == "fp32" or plan.name == "fusion" else OPSET
    model = typed(to_onnx(lean(plan.module), plan.signature, plan.example, opset), kind)
    if precision in EIGHTS:
        model = explicit(model, EIGHTS[precision], plan.calibration(), plan.unquantised(model))
    content, engine = builder.build(model, profiles_of(plan), plan.name)
    path = folder / f"{plan.name}.engine"
    path.write_bytes(content)
    if options.strip_weights:
        engine = engine.model_copy(update={"weights": _weights(model, folder / f"{plan.name}.onnx")})
    part = Part(
        file=path.name,
        sha256=sha256(content).hexdigest(),
        bytes=len(content),
        backend=options.flavour,
        precision=precision,
        inputs=plan.signature.inputs,
        outputs=plan.signature.outputs,
        engine=engine,
    )
    agreement = _on_gpu(plan, part, path) if builder.has_gpu else _on_cpu(plan, part, model)
    parity.demand(plan.name, precision, agreement)
    return part.model_copy(update={"parity": agreement})


def profiles_of(plan: Plan) -> tuple[Profile, ...]:
    """Over the manifest's ranges, and tuned for lengths like those of the inputs that the part is traced with."""
    return profiles(plan.signature.inputs, {name: value.shape for name, value in plan.example.items()})


def arithmetic(name: str, precision: str) -> Arithmetic:
    """What an engine computes in wherever it does not in eight bits.

    Raises ExportError for a precision that engines do not have.
    """
    if precision in EIGHTS:
        return "fp16"
    if precision not in get_args(Arithmetic):
        raise ExportError(
            f"TensorRT engines are built in {', '.join([*get_args(Arithmetic), *EIGHTS])}, not in {precision}; "
            f"choose --precision {name}=fp16."
        )
    return cast(Arithmetic, precision)


def demand_fp8(name: str, capabilities: Sequence[str]) -> None:
    """Raises ExportError where engines are to run on GPUs, of such compute capabilities, that have no fp8."""
    lacking = [capability for capability in capabilities if numbers(capability) < FP8_SINCE]
    if lacking:
        raise ExportError(
            f"fp8 needs GPUs of compute capability 8.9 or more, and the {name} part would be for "
            f"{', '.join(lacking)} too; name newer ones with --compute-capability, or choose {name}=int8-static."
        )


def _weights(model: ModelProto, path: Path) -> Document:
    onnx.save(model, path)
    return Document(file=path.name, sha256=sha256_of(path))


def _on_gpu(plan: Plan, part: Part, path: Path) -> Parity:
    try:
        found = compared(plan, TensorRtModel(path, part), part)
    except UnfitError as error:
        raise ExportError(f"The engine just built does not run here: {error}") from error
    return found.model_copy(update={"computed_by": part.backend})


def _on_cpu(plan: Plan, part: Part, model: ModelProto) -> Parity:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "emulated.onnx"
        onnx.save(emulated(model), path)
        return compared(plan, OnnxModel(path, part, threads=1), part)
