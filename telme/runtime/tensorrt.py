"""The TensorRT backend: runs a part's engine on the GPU, without PyTorch.

Inputs are padded to one of a few sizes, so that a size's second utterance replays a CUDA graph: one launch instead of
hundreds. A part's answers do not depend on padding, which every part masks.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from telme.bundle import Part, ShapeRange, Tensor, UnfitError
from telme.runtime import gpu, tensorrt_library
from telme.runtime.model import Array, Float32
from telme.runtime.tensorrt_library import Complaints

if TYPE_CHECKING:
    import tensorrt_rtx as trt
    from cuda.core import Buffer, Device, Stream
    from cuda.core.graph import Graph, GraphBuilder

Shape = tuple[int, ...]
Sizes = Mapping[str, int]  # of named dimensions

# Sizes that stay captured; each holds an execution context, but all share the memory that they compute in.
CAPTURED_MAX = 32
STEPS_PER_OCTAVE = 4


class TensorRtModel:
    """One engine with an execution context, a stream and buffers for each of its workers."""

    def __init__(self, path: Path, part: Part, workers: int = 1) -> None:
        """Load `path` onto the GPU and compare it with what the manifest says about it.

        workers: calls that may run at the same time; others wait.
        Raises UnfitError when this machine cannot run the engine.
        """
        if part.engine is None or part.backend == "onnxruntime" or part.backend == "openvino":
            raise ValueError(f"{path} is no engine")
        library = tensorrt_library.load(part.backend)
        device = gpu.device()
        engine = _engine(library, path, part)
        self._inputs = part.inputs
        self._outputs = part.outputs
        self._profiles = part.engine.profiles
        self._workers: SimpleQueue[_Worker] = SimpleQueue()
        for _ in range(workers):
            self._workers.put(_Worker(library, device, engine, part, path))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Float32]:
        """Outputs by name. Raises ValueError where no profile of the engine holds inputs of such shapes."""
        sizes = named_sizes(self._inputs, {name: value.shape for name, value in inputs.items()})
        padded = padded_sizes(self._inputs, sizes)
        profile = choose_profile(self._profiles, shapes(self._inputs, padded))
        gpu.device()  # makes it current for this thread
        worker = self._workers.get()
        try:
            found = worker.run(inputs, padded, profile)
        finally:
            self._workers.put(worker)
        real = shapes(self._outputs, sizes)
        return {name: value[tuple(map(slice, real[name]))] for name, value in found.items()}


def named_sizes(tensors: Sequence[Tensor], found: Mapping[str, Shape]) -> dict[str, int]:
    """The size of each named dimension, read off the inputs' shapes."""
    return {
        name: size
        for tensor in tensors
        for name, size in zip(tensor.shape, found[tensor.name], strict=True)
        if isinstance(name, str)
    }


def padded_sizes(tensors: Sequence[Tensor], sizes: Sizes) -> dict[str, int]:
    """Each size rounded up to one of few, but to no more than its range allows."""
    limits = {name: limit for tensor in tensors for name, (_, limit) in tensor.ranges.items()}
    return {name: max(size, min(rounded_up(size), limits[name])) for name, size in sizes.items()}


def rounded_up(size: int) -> int:
    """To four sizes per octave: 1, 2, … 8, 10, 12, 14, 16, 20, … ; less than a quarter is added."""
    step = max(1, (1 << (size - 1).bit_length()) // (2 * STEPS_PER_OCTAVE))
    return -(-size // step) * step


def shapes(tensors: Sequence[Tensor], sizes: Sizes) -> dict[str, Shape]:
    """Each tensor's shape when its named dimensions have these sizes."""
    return {
        tensor.name: tuple(size if isinstance(size, int) else sizes[size] for size in tensor.shape)
        for tensor in tensors
    }


def choose_profile(profiles: Sequence[Mapping[str, ShapeRange]], wanted: Mapping[str, Shape]) -> int:
    """The first profile whose ranges hold the shapes. Raises ValueError where none does."""
    for place, profile in enumerate(profiles):
        if all(profile[name].holds(shape) for name, shape in wanted.items()):
            return place
    raise ValueError(f"The engine has no profile for inputs of the shapes {dict(wanted)}.")


def _engine(library: ModuleType, path: Path, part: Part) -> "trt.ICudaEngine":
    """Bring the engine onto the GPU."""
    about = part.engine
    assert about is not None
    content = path.read_bytes()
    free = gpu.free_bytes()
    if free < len(content):
        raise UnfitError(
            f"{path} needs {len(content) / 1e6:.0f} MB of GPU memory and {free / 1e6:.0f} MB are free; end what else "
            "uses the GPU (`nvidia-smi` lists it), or choose a smaller bundle."
        )
    complaints = Complaints(library)
    runtime: trt.Runtime = library.Runtime(complaints.logger)
    runtime.engine_host_code_allowed = about.version_compatible  # such an engine brings its own small runtime
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise UnfitError(f"{part.backend} cannot load {path} ({complaints.reason()}); export the bundle again here.")
    if about.weights is not None:
        _refit(library, engine, path.parent / about.weights.file, complaints)
    found = {engine.get_tensor_name(place) for place in range(engine.num_io_tensors)}
    described = {tensor.name for tensor in (*part.inputs, *part.outputs)}
    if found != described:
        raise UnfitError(
            f"{path} has inputs and outputs {sorted(found)}, the manifest says {sorted(described)}; export the bundle "
            "again."
        )
    return engine


def _refit(library: ModuleType, engine: "trt.ICudaEngine", weights: Path, complaints: Complaints) -> None:
    refitter: trt.Refitter = library.Refitter(engine, complaints.logger)
    parser: trt.OnnxParserRefitter = library.OnnxParserRefitter(refitter, complaints.logger)
    if not (parser.refit_from_file(str(weights)) and refitter.refit_cuda_engine()):
        raise UnfitError(
            f"The weights in {weights} do not fit the engine ({complaints.reason()}); export the bundle again."
        )


@dataclass(frozen=True)
class _Buffers:
    """One tensor: where the GPU reads or writes it, and pinned memory through which it gets there and back."""

    dtype: np.dtype[Any]
    device: "Buffer"
    pinned: "Buffer"
    host: Array  # the pinned memory, as bytes

    def view(self, shape: Shape) -> Array:
        """The pinned memory's beginning, as an array."""
        count = math.prod(shape) * self.dtype.itemsize
        array: Array = self.host[:count].view(self.dtype).reshape(shape)
        return array

    def beginning(self, shape: Shape) -> tuple["Buffer", "Buffer"]:
        """As much of the device's and of the pinned memory as a tensor of this shape takes."""
        from cuda.core import Buffer

        count = math.prod(shape) * self.dtype.itemsize
        device, pinned = (
            Buffer.from_handle(int(whole.handle), count, owner=whole) for whole in (self.device, self.pinned)
        )
        return device, pinned


class _Run(Protocol):
    """The engine, ready for inputs of certain shapes in the worker's buffers."""

    def launch(self, stream: "Stream") -> None:
        """Copy inputs in, compute, copy outputs out; returns before that has happened."""
        ...


class _Worker:
    """Computes for one caller at a time."""

    def __init__(
        self, library: ModuleType, device: "Device", engine: "trt.ICudaEngine", part: Part, path: Path
    ) -> None:
        self._part = part
        self._stream = device.create_stream()
        try:
            self._memory = _Memory(device, self._stream, part)
            self._runs: _Runs = (
                _JustInTime(library, engine, self._stream, self._memory)
                if part.backend == "tensorrt-rtx"
                else _Captured(library, device, engine, self._stream, self._memory)
            )
        except Exception as error:  # cuda-core's own error, which cannot be named without a GPU's packages
            raise UnfitError(
                f"{path} does not fit into the GPU's memory ({' '.join(str(error).split())[:120]}; "
                f"{gpu.free_bytes() / 1e6:.0f} MB are free); end what else uses the GPU, or choose a smaller bundle."
            ) from error

    def run(self, inputs: Mapping[str, Array], sizes: Sizes, profile: int) -> dict[str, Array]:
        """Outputs by name, padding included."""
        wanted = shapes(self._part.inputs, sizes)
        found = shapes(self._part.outputs, sizes)
        for name, value in inputs.items():
            view = self._memory.buffers[name].view(wanted[name])
            view.fill(0)
            view[tuple(map(slice, value.shape))] = value
            view[len(value) :] = view[0]  # rows that nobody asks for hold what the engine can compute with
        self._runs.prepared(wanted, found, profile).launch(self._stream)
        self._stream.sync()
        return {name: self._memory.buffers[name].view(shape).copy() for name, shape in found.items()}


class _Memory:
    """Buffers for the largest inputs and outputs."""

    def __init__(self, device: "Device", stream: "Stream", part: Part) -> None:
        from cuda.core import LegacyPinnedMemoryResource

        pinned_memory = LegacyPinnedMemoryResource()
        self.buffers: dict[str, _Buffers] = {}
        for tensor in (*part.inputs, *part.outputs):
            largest = {name: limit for name, (_, limit) in tensor.ranges.items()}
            dtype = np.dtype(tensor.dtype)
            count = math.prod(shapes([tensor], largest)[tensor.name]) * dtype.itemsize
            pinned = pinned_memory.allocate(count)
            self.buffers[tensor.name] = _Buffers(
                dtype, device.allocate(count, stream=stream), pinned, np.from_dlpack(pinned).view(np.uint8)
            )

    def bind(self, context: "trt.IExecutionContext", wanted: Mapping[str, Shape]) -> None:
        """Tell a context its inputs' shapes, and where everything lies."""
        for name, buffers in self.buffers.items():
            if not context.set_tensor_address(name, int(buffers.device.handle)):
                raise RuntimeError(f"TensorRT did not take the address of {name}")
        for name, shape in wanted.items():
            if not context.set_input_shape(name, shape):
                raise RuntimeError(f"TensorRT did not take the shape {shape} of {name}")


@dataclass(frozen=True)
class _Pass:
    """Copies and computation of one pass, in a stream or recorded into a graph."""

    context: "trt.IExecutionContext"
    incoming: Sequence[tuple["Buffer", "Buffer"]]  # device, pinned
    outgoing: Sequence[tuple["Buffer", "Buffer"]]

    def enqueue(self, copying: "Stream | GraphBuilder", computing: "Stream") -> None:
        """copying: where copies go; computing: the stream that it is, or records."""
        for device, pinned in self.incoming:
            pinned.copy_to(device, stream=copying)
        if not self.context.execute_async_v3(int(computing.handle)):
            raise RuntimeError("TensorRT did not start the computation; the log at level debug says why")
        for device, pinned in self.outgoing:
            device.copy_to(pinned, stream=copying)

    def launch(self, stream: "Stream") -> None:
        self.enqueue(stream, stream)


def _pass(
    context: "trt.IExecutionContext", memory: _Memory, wanted: Mapping[str, Shape], found: Mapping[str, Shape]
) -> _Pass:
    incoming = [memory.buffers[name].beginning(shape) for name, shape in wanted.items()]
    outgoing = [memory.buffers[name].beginning(shape) for name, shape in found.items()]
    return _Pass(context, incoming, outgoing)


class _Runs(Protocol):
    def prepared(self, wanted: Mapping[str, Shape], found: Mapping[str, Shape], profile: int) -> _Run:
        """What computes outputs of the shapes `found` from inputs of the shapes `wanted`."""
        ...


@dataclass(frozen=True)
class _CapturedRun:
    """A recorded pass. The context must live as long as the graph that was recorded with it."""

    graph: "Graph"
    context: "trt.IExecutionContext"

    def launch(self, stream: "Stream") -> None:
        self.graph.launch(stream)


class _Captured:
    """A CUDA graph per shape, each of a context of its own, as TensorRT's guide to CUDA graphs asks for.

    The contexts compute one after another, so they share their working memory.
    """

    def __init__(
        self, library: ModuleType, device: "Device", engine: "trt.ICudaEngine", stream: "Stream", memory: _Memory
    ) -> None:
        self._library = library
        self._device = device
        self._engine = engine
        self._stream = stream
        self._memory = memory
        self._working_bytes = max(1, engine.device_memory_size_v2)
        self._working = device.allocate(self._working_bytes, stream=stream)
        self._kept: OrderedDict[tuple[Shape, ...], _CapturedRun] = OrderedDict()

    def prepared(self, wanted: Mapping[str, Shape], found: Mapping[str, Shape], profile: int) -> _Run:
        key = tuple(wanted.values())
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = self._capture(wanted, found, profile)
            if len(self._kept) > CAPTURED_MAX:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _capture(self, wanted: Mapping[str, Shape], found: Mapping[str, Shape], profile: int) -> _CapturedRun:
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        context.set_optimization_profile_async(profile, int(self._stream.handle))
        context.set_device_memory(int(self._working.handle), self._working_bytes)
        self._memory.bind(context, wanted)
        once = _pass(context, self._memory, wanted, found)
        once.launch(self._stream)  # the first pass after a change of shape does work that must not be recorded
        self._stream.sync()
        builder = self._device.create_graph_builder().begin_building("thread_local")
        once.enqueue(builder, builder.stream)
        return _CapturedRun(builder.end_building().complete(), context)


class _JustInTime:
    """A context per profile. TensorRT for RTX compiles kernels, and captures CUDA graphs, for shapes as they come."""

    def __init__(self, library: ModuleType, engine: "trt.ICudaEngine", stream: "Stream", memory: _Memory) -> None:
        self._memory = memory
        self._contexts = []
        for profile in range(engine.num_optimization_profiles):
            config = engine.create_runtime_config()
            config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = engine.create_execution_context(config)
            context.set_optimization_profile_async(profile, int(stream.handle))
            self._contexts.append(context)
        stream.sync()

    def prepared(self, wanted: Mapping[str, Shape], found: Mapping[str, Shape], profile: int) -> _Run:
        context = self._contexts[profile]
        self._memory.bind(context, wanted)
        return _pass(context, self._memory, wanted, found)
