"""ONNX model -> serialized TensorRT engine, in either flavour.

`tensorrt` builds on the GPU that is to run the engine. `tensorrt-rtx` builds ahead of time, without a GPU, for the
compute capabilities named, and compiles kernels on the machine that runs it. Networks are strongly typed: every layer
computes in the type that export/typed.py gave it.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING

from onnx import ModelProto

from export.build_progress import watched
from export.errors import ExportError
from export.profiles import Profile
from telme.bundle import Engine, Flavour, Hardware, UnfitError
from telme.runtime import gpu, tensorrt_library
from telme.runtime.gpu import Gpu
from telme.runtime.tensorrt_library import Complaints

if TYPE_CHECKING:
    import tensorrt_rtx as trt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How engines are built.

    compute_capabilities: for tensorrt-rtx, as in "8.9"; none names all that the library knows.
    workspace_mb: most GPU memory that a layer may take for its work; None leaves it to TensorRT.
    timing_cache: file that keeps how fast kernels ran, so that the next build is quicker; None is one in the user's
        cache folder. Only for tensorrt, which times kernels.
    version_compatible: newer versions of the same major version of TensorRT can run the engine; only for tensorrt.
    hardware: which other GPUs can run the engine; only for tensorrt.
    strip_weights: leave the weights out of the engine; they are put in at load, from the ONNX model beside it.
    """

    flavour: Flavour
    compute_capabilities: tuple[str, ...] = ()
    workspace_mb: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware: Hardware = "none"
    strip_weights: bool = False


class Builder:
    """Builds engines on this machine.

    capabilities: of the GPUs that they are for, as in "8.9".
    """

    def __init__(self, options: Options) -> None:
        """Raises ExportError where the library is not installed, the GPU is missing, or options exclude each other."""
        self._options = options
        try:
            self._library = tensorrt_library.load(options.flavour)
            self._gpu = _needed_gpu(options)
        except UnfitError as error:
            raise ExportError(str(error)) from error
        self.capabilities = _capabilities(self._library, options, self._gpu)

    @property
    def has_gpu(self) -> bool:
        """Whether engines are built on a GPU that can run them; those for RTX may be for others than this one."""
        return self._gpu is not None and self._gpu.compute_capability in self.capabilities

    def build(self, model: ModelProto, profiles: Sequence[Profile], name: str) -> tuple[bytes, Engine]:
        """The engine and what the manifest says about it, its weights excepted.

        Raises ExportError where TensorRT refuses the model.
        """
        complaints = Complaints(self._library)
        builder: trt.Builder = self._library.Builder(complaints.logger)
        content = model.SerializeToString()
        network = parsed(self._library, builder, content, complaints)
        config = self._configuration(builder, network, profiles)
        cache = _TimingCache(self._cache_file(), config) if self._options.flavour == "tensorrt" else None
        with watched(self._library, f"{name} engine") as monitor:
            config.progress_monitor = monitor
            built = builder.build_serialized_network(network, config)
        if built is None:
            raise ExportError(
                f"{self._options.flavour} {self._library.__version__} cannot build the {name} part "
                f"({complaints.reason()}); choose another --precision for {name}, or more --workspace-mb."
            )
        if cache is not None:
            cache.save()
        engine = Engine(
            version=self._library.__version__,
            gpu=self._gpu.name if self._gpu else None,
            compute_capabilities=self.capabilities,
            hardware=self._hardware(),
            version_compatible=self._options.version_compatible,
            workspace_mb=self._options.workspace_mb,
            profiles=tuple(profiles),
            onnx_sha256=sha256(content).hexdigest(),
        )
        return bytes(built), engine

    def _configuration(
        self, builder: "trt.Builder", network: "trt.INetworkDefinition", profiles: Sequence[Profile]
    ) -> "trt.IBuilderConfig":
        library, options = self._library, self._options
        config = builder.create_builder_config()
        for profile in profiles:
            config.add_optimization_profile(_optimization_profile(builder, profile))
        if options.workspace_mb is not None:
            config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
        if options.strip_weights:
            config.set_flag(library.BuilderFlag.STRIP_PLAN)
            config.set_flag(library.BuilderFlag.REFIT_IDENTICAL)
        if options.flavour == "tensorrt-rtx":
            config.num_compute_capabilities = len(self.capabilities)
            for place, capability in enumerate(self.capabilities):
                config.set_compute_capability(tensorrt_library.compute_capabilities(library)[capability], place)
            return config
        if options.version_compatible:
            config.set_flag(library.BuilderFlag.VERSION_COMPATIBLE)
        if options.hardware == "ampere_plus":
            config.hardware_compatibility_level = library.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.hardware == "same_compute_capability":
            if not hasattr(library.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY"):
                raise ExportError(
                    f"TensorRT {library.__version__} builds no engines for all GPUs of a compute capability; install "
                    "10.9 or newer, or leave --hardware same_compute_capability out."
                )
            config.hardware_compatibility_level = library.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        return config

    def _hardware(self) -> Hardware:
        """An engine for RTX is compiled where it runs, so it runs on every GPU of its compute capabilities."""
        return "same_compute_capability" if self._options.flavour == "tensorrt-rtx" else self._options.hardware

    def _cache_file(self) -> Path:
        if self._options.timing_cache is not None:
            return self._options.timing_cache
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        where = f"{self._library.__version__}-{self._gpu.name if self._gpu else 'none'}".replace(" ", "-")
        return home / "telme" / f"tensorrt-{where}.timing"


def parsed(
    library: ModuleType, builder: "trt.Builder", content: bytes, complaints: Complaints
) -> "trt.INetworkDefinition":
    """A strongly typed network of a serialized ONNX model.

    Raises ExportError where it is damaged, or has a node that TensorRT does not know.
    """
    flags = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # TensorRT 10 asks for it
    network = builder.create_network(flags)
    parser: trt.OnnxParser = library.OnnxParser(network, complaints.logger)
    if not parser.parse(content):
        raise ExportError(f"TensorRT cannot read the ONNX model: {_parser_error(parser)}.")
    if network.num_outputs == 0:  # what is no ONNX model at all may count as an empty one
        raise ExportError("TensorRT cannot read the ONNX model: it is empty or damaged; export the part again.")
    return network


def _parser_error(parser: "trt.OnnxParser") -> str:
    if parser.num_errors == 0:
        return "no reason given"
    error = parser.get_error(0)
    where = f"node {error.node_name()} ({error.node_operator()}): " if error.node_operator() else ""
    return where + " ".join(error.desc().split())[:200].rstrip(".")


def _optimization_profile(builder: "trt.Builder", profile: Profile) -> "trt.IOptimizationProfile":
    made = builder.create_optimization_profile()
    for name, shape in profile.items():
        made.set_shape(name, shape.min, shape.opt, shape.max)
    return made


def _needed_gpu(options: Options) -> Gpu | None:
    """The GPU, or None where an engine is built without one. Raises UnfitError where there must be one."""
    if options.flavour == "tensorrt-rtx" and not options.strip_weights:
        try:
            return gpu.find()
        except UnfitError:
            return None
    try:
        return gpu.find()
    except UnfitError as error:
        what = "Engines without weights are" if options.strip_weights else "Engines of --target tensorrt are"
        raise UnfitError(
            f"{what} built on the machine that runs them: {str(error).rstrip('.')}; --target tensorrt-rtx without "
            "--strip-weights needs no GPU."
        ) from error


def _capabilities(library: ModuleType, options: Options, found: Gpu | None) -> tuple[str, ...]:
    if options.flavour == "tensorrt":
        assert found is not None
        return (found.compute_capability,)
    known = tensorrt_library.compute_capabilities(library)
    for capability in options.compute_capabilities:
        if capability not in known:
            raise ExportError(
                f"--compute-capability cannot be {capability}; tensorrt-rtx {library.__version__} builds for "
                f"{', '.join(known)}, and --target tensorrt for the GPU at hand."
            )
    return options.compute_capabilities or tuple(known)


class _TimingCache:
    """A file that outlives the build. One of another GPU or version of TensorRT is left aside and written anew."""

    def __init__(self, file: Path, config: "trt.IBuilderConfig") -> None:
        self._file = file
        self._config = config
        try:
            kept = file.read_bytes()
        except OSError:
            kept = b""
        if not config.set_timing_cache(config.create_timing_cache(kept), False) and kept:
            log.info("%s is of another GPU or TensorRT; kernels are timed anew", file)
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def save(self) -> None:
        """A cache that cannot be written costs time in the next build, so it is no reason to lose this one."""
        content = self._config.get_timing_cache().serialize()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # In a folder of its own, which goes whatever happens to the file.
            with TemporaryDirectory(dir=self._file.parent) as aside:
                Path(aside, self._file.name).write_bytes(content)
                Path(aside, self._file.name).replace(self._file)
        except OSError as error:
            log.warning("the timing cache %s cannot be written (%s)", self._file, error.strerror)
