"""The OpenVINO backend: runs a part on the CPU, in bfloat16 or int8 arithmetic where the CPU has it."""

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING

from telme.bundle import BundleError, Part, UnfitError
from telme.runtime.model import Array, Float32
from telme.runtime.onednn import forget_shapes

if TYPE_CHECKING:
    import openvino

DEVICE = "CPU"

# Operations that stay compiled for shapes which a model has met: enough that the lengths which telme-bench takes in
# turns are compiled once at paper scale. By OpenVINO's default of 5,000, each new length of speech adds a megabyte.
_COMPILED_MAX = 256

log = logging.getLogger(__name__)


def load() -> ModuleType:
    """The library. Raises UnfitError where it is not installed, or broken."""
    try:
        return importlib.import_module("openvino")
    except (ImportError, OSError) as missing:  # OSError: its shared libraries are not there
        raise UnfitError(
            f'openvino cannot be imported ({missing}): run `pip install "telme-live[openvino]"`.'
        ) from missing


class OpenVinoModel:
    """One model, compiled for this CPU. Each call at a time has an infer request of its own, which is used again."""

    def __init__(self, path: Path, part: Part, threads: int) -> None:
        """Compile `path`, whose weights lie beside it, and compare it with what the manifest says about it.

        threads: cores that one call may use.
        Raises UnfitError without OpenVINO, BundleError when the file is no model, or not the one described.
        """
        library = load()
        forget_shapes()
        core = library.Core()
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "ENABLE_CPU_PINNING": "NO",  # the cores are shared with capture and transcription
            "INFERENCE_PRECISION_HINT": _arithmetic(core, part),
            "CPU_RUNTIME_CACHE_CAPACITY": str(_COMPILED_MAX),
        }
        try:
            self._compiled: openvino.CompiledModel = core.compile_model(path, DEVICE, properties)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise BundleError(f"OpenVINO cannot load {path} ({reason}); export the bundle again.") from error
        found = [{port.any_name for port in ports} for ports in (self._compiled.inputs, self._compiled.outputs)]
        described = [{tensor.name for tensor in tensors} for tensors in (part.inputs, part.outputs)]
        if found != described:
            raise BundleError(
                f"{path} has inputs {sorted(found[0])} and outputs {sorted(found[1])}, the manifest says "
                f"{sorted(described[0])} and {sorted(described[1])}; export the bundle again."
            )
        self._outputs = [output.name for output in part.outputs]
        self._idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Float32]:
        try:
            request = self._idle.get_nowait()
        except Empty:  # all are at work in other threads
            request = self._compiled.create_infer_request()
        try:
            # Inputs are read where they lie; outputs are copied out of the request before another call takes it.
            found = request.infer(dict(inputs), share_inputs=True)
            return {name: found[name] for name in self._outputs}
        finally:
            self._idle.put(request)


def _arithmetic(core: "openvino.Core", part: Part) -> str:
    """What is computed in wherever the model does not say int8."""
    if part.precision == "fp32":
        return "f32"
    if "BF16" in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        return "bf16"
    if part.precision == "bf16":
        log.warning("This CPU has no bfloat16 arithmetic: %s is computed in float32.", part.file)
    return "f32"
