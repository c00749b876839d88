"""Whether this machine can run a bundle's parts, and what mends it where it cannot."""

from pathlib import Path

from telme.bundle import AMPERE, Bundle, Engine, Flavour, UnfitError, numbers
from telme.runtime import gpu, openvino, tensorrt_library
from telme.runtime.gpu import Gpu


def demand(bundle: Bundle) -> None:
    """Raises UnfitError unless every engine of the bundle was built for this GPU and this TensorRT.

    Of parts for OpenVINO, it must be installed. ONNX files run everywhere.
    """
    for name, part in bundle.manifest.parts.named():
        if part.backend == "openvino":
            _demand_openvino(bundle)
        elif part.backend != "onnxruntime" and part.engine is not None:
            _demand_engine(bundle, name, part.engine, part.backend)


def _demand_engine(bundle: Bundle, name: str, engine: Engine, flavour: Flavour) -> None:
    try:
        library = tensorrt_library.load(flavour)
        found = gpu.find()
        complaint = complaint_about(engine, flavour, library.__version__, found)
    except UnfitError as error:
        reason = str(error).removesuffix(".")
        command = bundle.manifest.without_gpu(bundle.folder)
        raise UnfitError(
            f"{bundle.folder} needs {flavour}: {reason}; `{command}` makes a bundle that needs no GPU."
        ) from error
    if complaint:
        rtx = tensorrt_library.compute_capabilities(library) if flavour == "tensorrt-rtx" else ()
        command = bundle.manifest.rebuild(bundle.folder, _output(bundle), found.compute_capability, rtx)
        raise UnfitError(
            f"The {name} part of {bundle.folder} {complaint}; run `{command}` on the machine that is to run it."
        )


def _demand_openvino(bundle: Bundle) -> None:
    try:
        openvino.load()
    except UnfitError as error:
        raise UnfitError(f"{bundle.folder} needs OpenVINO: {error}") from error


def _output(bundle: Bundle) -> Path | str:
    """Where the bundle is built anew. The cache of a hub stays as it was pulled."""
    return f"bundles/{bundle.manifest.training.config}" if bundle.address else bundle.folder


def complaint_about(engine: Engine, flavour: Flavour, version: str, found: Gpu) -> str | None:
    """What does not fit, or None.

    version: of the TensorRT installed. found: the GPU.
    """
    if not _version_fits(engine, version):
        return f"was built with {flavour} {engine.version} and {version} is installed"
    if engine.hardware == "ampere_plus":
        if numbers(found.compute_capability) < AMPERE:
            return f"runs on GPUs of compute capability 8.0 or more and the {found.name} has {found.compute_capability}"
    elif found.compute_capability not in engine.compute_capabilities:
        return (
            f"was built for compute capability {', '.join(engine.compute_capabilities)} and the {found.name} has "
            f"{found.compute_capability}"
        )
    elif engine.hardware == "none" and engine.gpu not in (None, found.name):
        return f"was built for the {engine.gpu} and this is the {found.name}"
    return None


def _version_fits(engine: Engine, version: str) -> bool:
    if not engine.version_compatible:
        return version == engine.version
    return engine.version.partition(".")[0] == version.partition(".")[0] and numbers(version) >= numbers(engine.version)
