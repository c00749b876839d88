"""Runs a PyTorch module where the runtime expects a part of a bundle: the reference that an export is compared with."""

from collections.abc import Mapping

import torch
from torch import nn

from export.onnx import Signature
from telme.runtime.model import Array, Float32


class TorchModel:
    """A module with named inputs and outputs, on the CPU."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        self._module = module.eval()
        self._signature = signature

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Float32]:
        arguments = [torch.from_numpy(inputs[tensor.name]) for tensor in self._signature.inputs]
        with torch.inference_mode():
            found = self._module(*arguments)
        outputs = found if isinstance(found, tuple) else (found,)
        return {tensor.name: value.numpy() for tensor, value in zip(self._signature.outputs, outputs, strict=True)}
