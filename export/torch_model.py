"""Runs a PyTorch module where the runtime expects a part of a bundle: the reference that an export is compared with."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from export.onnx import Signature
from telme.runtime.model import Array, Float32


@dataclass(frozen=True)
class Place:
    """Where PyTorch computes, and in what; compiled: by torch.compile, for inputs of any size."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.device}, {str(self.dtype).removeprefix('torch.')}"


CPU = Place()


class TorchModel:
    """A module with named inputs and outputs."""

    def __init__(self, module: nn.Module, signature: Signature, place: Place = CPU) -> None:
        module = module.eval()
        if (place.device, place.dtype) != (CPU.device, CPU.dtype):
            module = deepcopy(module).to(place.device, place.dtype)
        self._module = torch.compile(module, dynamic=True) if place.compiled else module
        self._signature = signature
        self._place = place

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Float32]:
        arguments = [self._placed(inputs[tensor.name]) for tensor in self._signature.inputs]
        with torch.inference_mode():
            found = self._module(*arguments)
        outputs = found if isinstance(found, tuple) else (found,)
        # To bring an answer to the CPU waits until the GPU has it.
        return {
            tensor.name: value.float().cpu().numpy()
            for tensor, value in zip(self._signature.outputs, outputs, strict=True)
        }

    def _placed(self, values: Array) -> torch.Tensor:
        tensor = torch.from_numpy(values).to(self._place.device)
        return tensor.to(self._place.dtype) if tensor.is_floating_point() else tensor
