"""NVIDIA's TensorRT in its two flavours, which are separate packages with nearly the same API."""

import importlib
import logging
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from telme.bundle import Flavour, UnfitError

if TYPE_CHECKING:
    import tensorrt_rtx as trt

MODULES: Mapping[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# Major versions whose calls these are; 10 has the same ones, where precision comes from the network's types.
MAJOR_VERSIONS: Mapping[Flavour, tuple[int, ...]] = {"tensorrt": (10, 11), "tensorrt-rtx": (1,)}

log = logging.getLogger(__name__)


def load(flavour: Flavour) -> ModuleType:
    """The library. Raises UnfitError where it is not installed, broken, or of a version with another API."""
    try:
        library = importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as missing:  # OSError: its shared libraries are not there
        raise UnfitError(
            f'{MODULES[flavour]} cannot be imported ({missing}): run `pip install "telme-live[{flavour}]"`.'
        ) from missing
    if int(library.__version__.partition(".")[0]) not in MAJOR_VERSIONS[flavour]:
        wanted = " or ".join(str(major) for major in MAJOR_VERSIONS[flavour])
        raise UnfitError(
            f"{flavour} {library.__version__} is installed and {wanted}.x is supported: "
            f'run `pip install "telme-live[{flavour}]"`.'
        )
    return library


def compute_capabilities(library: ModuleType) -> dict[str, "trt.ComputeCapability"]:
    """Capability, as in "8.9", -> SM89, for all that TensorRT for RTX can build for."""
    members: dict[str, trt.ComputeCapability] = library.ComputeCapability.__members__
    return {f"{name[2:-1]}.{name[-1]}": member for name, member in members.items() if name.startswith("SM")}


class Complaints:
    """What TensorRT says while it works: it returns nothing on failure, and logs the reason."""

    def __init__(self, library: ModuleType) -> None:
        self._errors: list[str] = []
        self.logger = _logger(library, self._errors)

    def reason(self) -> str:
        """The first error, on one line."""
        return " ".join(self._errors[0].split())[:240] if self._errors else "no reason given"


def _logger(library: ModuleType, errors: list[str]) -> "trt.ILogger":
    base: Any = library.ILogger  # which class it is depends on the flavour

    class Log(base):  # type: ignore[misc]  # the base comes from whichever library is loaded
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: "trt.ILogger.Severity", msg: str) -> None:
            if severity in (base.Severity.INTERNAL_ERROR, base.Severity.ERROR):
                errors.append(msg)
            if severity != base.Severity.VERBOSE:  # tens of thousands of lines
                log.debug("TensorRT: %s", msg)

    return Log()
