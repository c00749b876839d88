"""The ONNX Runtime backend: runs a part on the CPU."""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from telme.bundle import BundleError, Part, Tensor
from telme.runtime.model import Array, Float32

# What ONNX Runtime calls the types of tensors.
_TYPES = {"float32": "float", "float16": "float16", "int64": "int64", "int32": "int32", "bool": "bool"}


class OnnxModel:
    """One ONNX file in a session of its own."""

    def __init__(self, path: Path, part: Part, threads: int) -> None:
        """Load `path` and compare it with what the manifest says about it.

        threads: cores that one call may use.
        Raises BundleError when the file is no model, or not the one described.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Waiting threads sleep: they share the cores with capture and transcription.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights that are merely stored in int8 become float32 once, at load, not at every call.
        stored = part.precision != "int8-static"
        options.add_session_config_entry("session.disable_quant_qdq", str(int(stored)))
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no narrower common base
            reason = " ".join(str(error).split())[:200]
            raise BundleError(f"ONNX Runtime cannot load {path} ({reason}); export the bundle again.") from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        found = {value.name for value in self._session.get_inputs()}, set(self._outputs)
        described = {value.name for value in part.inputs}, {value.name for value in part.outputs}
        if found != described:
            raise BundleError(
                f"{path} has inputs {sorted(found[0])} and outputs {sorted(found[1])}, the manifest says "
                f"{sorted(described[0])} and {sorted(described[1])}; export the bundle again."
            )
        tensors = {tensor.name: tensor for tensor in (*part.inputs, *part.outputs)}
        for value in (*self._session.get_inputs(), *self._session.get_outputs()):
            _demand_shape(path, tensors[value.name], value)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Float32]:
        return dict(zip(self._outputs, self._session.run(None, inputs), strict=True))


def _demand_shape(path: Path, described: Tensor, found: onnxruntime.NodeArg) -> None:
    """Raises BundleError unless the model's tensor has the type and the fixed sizes that the manifest says."""
    alike = len(found.shape) == len(described.shape) and all(
        one == other or isinstance(one, str | None) or isinstance(other, str)
        for one, other in zip(found.shape, described.shape, strict=True)
    )
    if not alike or found.type != f"tensor({_TYPES[described.dtype]})":
        raise BundleError(
            f"{path} has {described.name} as {found.type} of shape {tuple(found.shape)}, the manifest says "
            f"{described.dtype} of shape {described.shape}; export the bundle again."
        )
