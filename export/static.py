"""An ONNX model that multiplies in int8, with scales fixed by what real inputs make of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from telme.runtime.model import Array


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    def __init__(self, inputs: Sequence[Mapping[str, Array]]) -> None:
        self._left = iter(inputs)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._left, None)


def quantized(model: ModelProto, inputs: Sequence[Mapping[str, Array]], left: Sequence[str] = ()) -> ModelProto:
    """The same model with quantised products and convolutions; `model` itself is left alone.

    inputs: a batch by name each. left: names of nodes that stay as they are. Weights get a scale per output channel,
    activations one per tensor.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_static(
            copy,
            path,
            _Reader(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(left),
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(path)
