"""Triton Inference Server, as far as a Python model sees it: `triton_python_backend_utils`, over a model repository.

Parts run on ONNX Runtime. As the server does, it checks every request against the model's config.pbtxt.
"""

import importlib.util
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig
from tritonclient.utils import np_to_triton_dtype

from telme.bundle import Manifest

Arrays = dict[str, np.ndarray]


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        assert array.flags.c_contiguous, "Triton copies the memory as it lies"
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError:
    def __init__(self, message: str) -> None:
        self._message = message

    def message(self) -> str:
        return self._message


class Request:
    """What a client asks."""

    def __init__(self, inputs: Arrays) -> None:
        self.inputs = [Tensor(name, value) for name, value in inputs.items()]


class Response:
    def __init__(self, output_tensors: Sequence[Tensor], error: TritonError | None = None) -> None:
        self.tensors = list(output_tensors)
        self._error = error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def arrays(self) -> Arrays:
        assert self._error is None, self._error.message()
        return {tensor.name(): tensor.as_numpy() for tensor in self.tensors}


def _named(tensors: Sequence[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor.name() == name), None)


class Server:
    """A repository whose Python model is loaded."""

    def __init__(self, repository: Path, name: str, patch: pytest.MonkeyPatch, as_recogniser: bool = True) -> None:
        """as_recogniser: run parts with the recogniser's session options; else with the defaults, as Triton does."""
        self.repository = repository
        self._as_recogniser = as_recogniser
        self.asked: list[str] = []
        self.failing: str | None = None
        self.config = read_config(repository / name)
        manifest = Manifest.model_validate_json((repository / name / "bundle" / "manifest.json").read_bytes())
        self._precisions = {part: described.precision for part, described in manifest.parts.named()}
        patch.setitem(sys.modules, "triton_python_backend_utils", self._utilities())
        spec = importlib.util.spec_from_file_location(
            "triton_python_model", repository / name / "1" / self.config.default_model_filename
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "triton_python_model", module)  # where its data classes look for their types
        spec.loader.exec_module(module)
        self._model = module.TritonPythonModel()
        config = json_format.MessageToDict(self.config, preserving_proto_field_name=True)
        self._model.initialize({"model_config": json.dumps(config), "model_name": name})

    async def ask(self, *requests: Arrays) -> list[Response]:
        """Requests that Triton hands over together."""
        for inputs in requests:
            check(self.config, inputs)
        responses: list[Response] = await self._model.execute([Request(inputs) for inputs in requests])
        outputs = {value.name: value for value in self.config.output}
        for response in responses:
            for tensor in response.tensors:
                described = outputs[tensor.name()]
                assert tensor.as_numpy().dtype == np.float32
                assert list(tensor.as_numpy().shape[1:]) == list(described.dims)
        return responses

    def _utilities(self) -> ModuleType:
        server = self

        class InferenceRequest:
            def __init__(
                self,
                model_name: str,
                requested_output_names: Sequence[str],
                inputs: Sequence[Tensor],
                preferred_memory: Any,
            ) -> None:
                assert preferred_memory == ("cpu", 0)
                self._model_name = model_name
                self._outputs = requested_output_names
                self._inputs = {tensor.name(): tensor.as_numpy() for tensor in inputs}

            async def async_exec(self) -> Response:
                return server._run(self._model_name, self._inputs, self._outputs)

        module = ModuleType("triton_python_backend_utils")
        module.__dict__.update(
            Tensor=Tensor,
            TritonError=TritonError,
            InferenceRequest=InferenceRequest,
            InferenceResponse=Response,
            PreferredMemory=lambda kind, device: (kind, device),
            TRITONSERVER_MEMORY_CPU="cpu",
            get_input_tensor_by_name=lambda request, name: _named(request.inputs, name),
            get_output_tensor_by_name=lambda response, name: _named(response.tensors, name),
        )
        return module

    def _run(self, name: str, inputs: Arrays, outputs: Sequence[str]) -> Response:
        self.asked.append(name)
        if name == self.failing:
            return Response([], TritonError("out of memory"))
        config = read_config(self.repository / name)
        check(config, inputs)
        flat = {value.name for value in config.input if value.HasField("reshape") and not value.reshape.shape}
        given = {key: value[:, 0] if key in flat else value for key, value in inputs.items()}
        multiplied = self._precisions.get(name.removeprefix(f"{self.config.name}_")) == "int8-static"
        model = session(
            self.repository / name / "1" / config.default_model_filename, self._as_recogniser and not multiplied
        )
        answers = model.run(list(outputs), given)
        return Response([Tensor(key, value) for key, value in zip(outputs, answers, strict=True)])


def check(config: ModelConfig, inputs: Arrays) -> None:
    """Raises AssertionError where Triton would refuse a request."""
    described = {value.name: value for value in config.input}
    assert inputs.keys() <= described.keys()
    assert all(value.optional or name in inputs for name, value in described.items())
    for name, value in inputs.items():
        assert DataType.Name(described[name].data_type) == f"TYPE_{np_to_triton_dtype(value.dtype)}"
        dims = described[name].dims
        assert len(dims) == value.ndim - 1
        assert all(dim in (-1, size) for dim, size in zip(dims, value.shape[1:], strict=True)), name
        assert 1 <= len(value) <= config.max_batch_size


def read_config(model: Path) -> ModelConfig:
    """A model's config.pbtxt by Triton's schema, which refuses what it does not know."""
    return text_format.Parse((model / "config.pbtxt").read_text(), ModelConfig())


@cache
def session(path: Path, stored: bool) -> onnxruntime.InferenceSession:
    """stored: weights in int8 become float32 once, as the recogniser has it where they are merely stored so."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if stored:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(path, options)
