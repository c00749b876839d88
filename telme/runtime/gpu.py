"""The GPU that engines run on: the first one that CUDA shows (CUDA_VISIBLE_DEVICES chooses)."""

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telme.bundle import UnfitError

if TYPE_CHECKING:
    from cuda.core import Device


@dataclass(frozen=True)
class Gpu:
    """compute_capability: as in "8.9"."""

    name: str
    compute_capability: str


def device() -> "Device":
    """The GPU, made current for the calling thread.

    Raises UnfitError where there is none, its driver is too old, or cuda-core is not installed.
    """
    try:
        from cuda.core import Device
    except ImportError as missing:
        raise UnfitError('TensorRT runs through cuda-core: run `pip install "telme-live[tensorrt]"`.') from missing
    try:
        found = Device(0)
        found.set_current()
    except Exception as error:  # no driver, no GPU and a busy GPU raise errors without a common base
        reason = textwrap.shorten(str(error), 240, placeholder=" …")  # between words
        raise UnfitError(
            f"There is no usable NVIDIA GPU here ({reason}); look at `nvidia-smi`, or choose a bundle for ONNX Runtime."
        ) from error
    return found


def find() -> Gpu:
    """Raises UnfitError as `device` does."""
    found = device()
    return Gpu(found.name, f"{found.compute_capability.major}.{found.compute_capability.minor}")


def free_bytes() -> int:
    """Memory that the current GPU has left."""
    from cuda.bindings import driver

    result, free, _ = driver.cuMemGetInfo()
    if result != driver.CUresult.CUDA_SUCCESS:
        raise UnfitError(f"The GPU does not say how much memory it has left ({result.name}); look at `nvidia-smi`.")
    return int(free)
