"""What computes a part: the module that was trained, or the file that a bundle holds in its place."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from telme.bundle import BundleError, Part, verify
from telme.models.audio import AudioStudent
from telme.models.teacher import Teacher
from telme.models.visual import VisualStudent
from telme.runtime import backends
from telme.runtime.encoders import batch_max
from telme.training import checkpoint
from telme.training.checkpoint import Checkpoint
from telme.training.errors import TrainingError
from telme.training.processes import together

D = TypeVar("D")


class Network(Protocol):
    """An encoder.

    vector: length of an utterance's vector. size: of its row, which begins with the vector.
    at_once: how many utterances it is best given.
    """

    vector: int
    size: int
    at_once: int

    def __call__(self, inputs: Sequence[npt.NDArray[Any]], bf16: bool) -> Tensor:
        """inputs: as the model's `forward` takes them. bf16: a trained one calculates in bfloat16.

        Returns (B, size) float32, on the CPU: all that `logits` and the fusion need to know of the utterances.
        """
        ...

    def logits(self, vectors: Tensor) -> Tensor:
        """What the part itself says of rows (B, size): (B, C), not calibrated."""
        ...


class TrainedNetwork:
    """A frozen module on the fastest device at hand. An utterance's row is its vector."""

    at_once = 32

    def __init__(self, model: Teacher | AudioStudent | VisualStudent) -> None:
        self._device = together().device
        self._model = model.to(self._device).eval()
        self.vector = self.size = model.dimensions.vector

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[npt.NDArray[Any]], bf16: bool) -> Tensor:
        tensors = [torch.from_numpy(array).to(self._device) for array in inputs]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            vectors, _ = self._model(*tensors)
        result: Tensor = vectors.float().cpu()
        return result

    @torch.inference_mode()
    def logits(self, vectors: Tensor) -> Tensor:
        result: Tensor = self._model.classifier(vectors.to(self._device)).cpu()
        return result


class ExportedNetwork:
    """A bundle's encoder. It gives vector and logits together: an utterance's row holds both."""

    def __init__(self, path: Path, part: Part) -> None:
        """Raises BundleError when the part cannot be run here."""
        self._model = backends.load(path, part, torch.get_num_threads())
        self._inputs = [tensor.name for tensor in part.inputs]
        self.at_once = batch_max(part)
        widths = {tensor.name: int(tensor.shape[1]) for tensor in part.outputs}
        self.vector = widths["vector"]
        self.size = self.vector + widths["logits"]

    def __call__(self, inputs: Sequence[npt.NDArray[Any]], bf16: bool) -> Tensor:
        outputs = self._model.run(dict(zip(self._inputs, inputs, strict=True)))
        return torch.from_numpy(np.concatenate([outputs["vector"], outputs["logits"]], axis=1))

    def logits(self, vectors: Tensor) -> Tensor:
        return vectors[:, self.vector :]


def load(
    folder: Path, module: Callable[[D], Teacher | AudioStudent | VisualStudent], dimensions: type[D]
) -> tuple[Checkpoint, Network]:
    """An encoder of a run, trained there or taken over from a bundle.

    folder: of the part. module: makes the model of its dimensions.
    Raises TrainingError when the part is missing or damaged, or cannot be run here.
    """
    about = checkpoint.read(folder)
    if about.exported is not None:
        return about, taken_over(folder, about.part, about.exported)
    _, model = checkpoint.load(folder, module, dimensions)
    return about, TrainedNetwork(model)


def taken_over(folder: Path, name: str, part: Part) -> ExportedNetwork:
    """A bundle's part that lies in a run's folder. Raises TrainingError when it is damaged, or cannot be run here."""
    try:
        for file in part.files():
            verify(folder, f"{name} part", file.file, file.sha256)
        return ExportedNetwork(folder / part.file, part)
    except BundleError as error:
        raise TrainingError(str(error)) from error
