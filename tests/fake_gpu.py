"""A GPU, cuda-core and TensorRT, made of this machine's memory and ONNX Runtime: an "engine" is an ONNX file.

As on a GPU nothing happens before a stream is waited for, and a recorded graph repeats what was recorded, at the
addresses and with the shapes of that time.
"""

import ctypes
import itertools
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest

NAME = "NVIDIA Imaginary 4000"
VERSION = "11.4.0.106"
RTX_VERSION = "1.7.1.116"


class Stream:
    handles = itertools.count(1)
    known: ClassVar[dict[int, "Stream"]] = {}

    def __init__(self) -> None:
        self.handle = next(self.handles)
        self.known[self.handle] = self
        self.work: list[Callable[[], None]] = []

    def sync(self) -> None:
        work, self.work = self.work, []
        for step in work:
            step()


class Graph:
    def __init__(self, work: list[Callable[[], None]]) -> None:
        self._work = work

    def launch(self, stream: Stream) -> None:
        stream.work += self._work


class GraphBuilder:
    completed = 0

    def __init__(self) -> None:
        self.stream = Stream()

    def begin_building(self, mode: str) -> "GraphBuilder":
        assert mode == "thread_local"
        return self

    def end_building(self) -> "GraphBuilder":
        return self

    def complete(self) -> Graph:
        type(self).completed += 1
        return Graph(self.stream.work)


class Buffer:
    def __init__(self, memory: Any, handle: int, size: int) -> None:
        self._memory = memory
        self.handle = handle
        self.size = size

    @classmethod
    def allocated(cls, size: int) -> "Buffer":
        memory = (ctypes.c_int8 * size)(*([-86] * size))  # fresh memory holds anything
        return cls(memory, ctypes.addressof(memory), size)

    @classmethod
    def from_handle(cls, handle: int, size: int, owner: object) -> "Buffer":
        return cls(owner, handle, size)

    def copy_to(self, other: "Buffer", stream: Stream | GraphBuilder) -> None:
        assert other.size == self.size
        work = stream.stream.work if isinstance(stream, GraphBuilder) else stream.work
        work.append(lambda: ctypes.memmove(other.handle, self.handle, self.size) and None)

    def __dlpack__(self, **options: Any) -> object:
        return np.frombuffer(self._memory, np.int8).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class PinnedMemory:
    def allocate(self, size: int) -> Buffer:
        return Buffer.allocated(size)


class Device:
    name = NAME
    compute_capability = SimpleNamespace(major=8, minor=9)
    free_bytes = 1 << 33

    def __init__(self, number: int) -> None:
        assert number == 0

    def set_current(self) -> None: ...

    def create_stream(self) -> Stream:
        return Stream()

    def create_graph_builder(self) -> GraphBuilder:
        return GraphBuilder()

    def allocate(self, size: int, stream: Stream) -> Buffer:
        if size > self.free_bytes:
            raise MemoryError("CUDA_ERROR_OUT_OF_MEMORY")
        return Buffer.allocated(size)


class Context:
    def __init__(self, session: onnxruntime.InferenceSession, memory: int | None) -> None:
        self._session = session
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._memory = memory
        self._profile: int | None = None

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream in Stream.known
        self._profile = profile
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        assert size == Engine.device_memory_size_v2
        self._memory = address

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        batch = shape[0]
        if (batch == 1) != (self._profile == 0):
            return False
        self._shapes[name] = shape
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self._memory is None:
            return False
        Stream.known[stream].work.append(lambda shapes=dict(self._shapes): self._compute(shapes))
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]]) -> None:
        inputs = {}
        for value in self._session.get_inputs():
            dtype = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}[value.type]
            inputs[value.name] = self._array(value.name, np.dtype(dtype), shapes[value.name])
        for value, answer in zip(self._session.get_outputs(), self._session.run(None, inputs), strict=True):
            self._array(value.name, answer.dtype, answer.shape)[...] = answer

    def _array(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_int8 * count).from_address(self._addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)


class Engine:
    device_memory_size_v2 = 512
    num_optimization_profiles = 2

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._names = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
        self.num_io_tensors = len(self._names)

    def get_tensor_name(self, place: int) -> str:
        return self._names[place]

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace()

    def create_execution_context(self, how: str | SimpleNamespace) -> Context:
        if isinstance(how, SimpleNamespace):
            assert how.cuda_graph_strategy == "whole graph"
            return Context(self._session, memory=0)  # it has memory of its own
        assert how == "user managed"
        return Context(self._session, memory=None)


class Refitter:
    """Puts weights into an engine: here, the session of the model that has them in the place of the one without."""

    def __init__(self, engine: Engine, logger: "Logger") -> None:
        self.engine = engine
        self.session: onnxruntime.InferenceSession | None = None

    def refit_cuda_engine(self) -> bool:
        self.engine._session = self.session
        return True


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, logger: "Logger") -> None:
        self._refitter = refitter
        self._logger = logger

    def refit_from_file(self, path: str) -> bool:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(path, options)
        if [value.name for value in session.get_inputs()] != self._refitter.engine._names[:-1]:
            self._logger.log(Logger.Severity.ERROR, "the names of the weights\ndiffer")
            return False
        self._refitter.session = session
        return True


class Logger:
    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class Runtime:
    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        try:
            model = onnx.load_from_string(content)
            options = onnxruntime.SessionOptions()
            options.add_session_config_entry("session.disable_quant_qdq", "1")  # as OnnxModel does
            return Engine(onnxruntime.InferenceSession(model.SerializeToString(), options))
        except Exception:
            self._logger.log(Logger.Severity.ERROR, "the magic tag\ndoes not match")
            return None


def install(patch: pytest.MonkeyPatch) -> None:
    """Put this in the place of `tensorrt`, `tensorrt_rtx`, `cuda.core` and `cuda.bindings`."""
    core = ModuleType("cuda.core")
    core.__dict__.update(Device=Device, Buffer=Buffer, LegacyPinnedMemoryResource=PinnedMemory)
    driver = SimpleNamespace(
        cuMemGetInfo=lambda: (0, Device.free_bytes, 1 << 33), CUresult=SimpleNamespace(CUDA_SUCCESS=0)
    )
    bindings = ModuleType("cuda.bindings")
    bindings.__dict__.update(driver=driver)
    library, rtx = ModuleType("tensorrt"), ModuleType("tensorrt_rtx")
    for each, version in ((library, VERSION), (rtx, RTX_VERSION)):
        each.__dict__.update(
            __version__=version,
            ILogger=Logger,
            Runtime=Runtime,
            Refitter=Refitter,
            OnnxParserRefitter=OnnxParserRefitter,
        )
    library.__dict__.update(ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"))
    known = {"NONE": 0, "SM75": 75, "SM80": 80, "SM86": 86, "SM89": 89, "SM120": 120}
    rtx.__dict__.update(
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph"),
        ComputeCapability=SimpleNamespace(__members__=known),
    )
    modules = {
        "cuda": ModuleType("cuda"),
        "cuda.core": core,
        "cuda.bindings": bindings,
        "tensorrt": library,
        "tensorrt_rtx": rtx,
    }
    for name, module in modules.items():
        patch.setitem(sys.modules, name, module)
    patch.setattr(GraphBuilder, "completed", 0)
