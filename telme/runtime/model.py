"""What the recogniser asks of a backend."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]


class Model(Protocol):
    """One part of a bundle, loaded and ready to run. Thread-safe."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Float32]:
        """Outputs by name. Every input and output has the batch as its first dimension."""
        ...
