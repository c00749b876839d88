"""Reads a Whisper encoder's weights out of a model that was converted for CTranslate2 (faster-whisper's format).

`model.bin` holds named tensors. Little endian; a string is a uint16 length that counts a closing zero byte:

    uint32 version | string specification | uint32 revision | uint32 count
    count x ( string name | uint8 rank | rank x uint32 dimension | uint8 type | uint32 bytes | values )
    uint32 count | count x ( string alias | string name )

The source is `ModelSpec._serialize` in CTranslate2's python/ctranslate2/specs/model_spec.py.
"""

import struct
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

VERSION = 6
MODEL_FILE = "model.bin"
# CTranslate2's DataType; bfloat16 (5) has no numpy type and no converted Whisper uses it by default.
_DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}

Array = npt.NDArray[Any]


class WeightsError(Exception):
    """A weights file that cannot be read; the message says why."""


@dataclass(frozen=True)
class EncoderWeights:
    """A Whisper encoder: its sizes and its state, named as in `telme.models.whisper.WhisperEncoder`."""

    mel_bins: int
    width: int
    layers: int
    heads: int
    state: dict[str, torch.Tensor]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read from the folder of a converted model, of any size and of float or int8 precision.

        Raises WeightsError where the file is missing, damaged or not a Whisper model.
        """
        variables = read_variables(folder / MODEL_FILE)
        layers = len(
            {name.split("/")[1] for name in variables if name.startswith("encoder/layer_") and "/ffn/" in name}
        )
        try:
            state = _encoder_state(variables, layers)
            heads = int(variables["encoder/num_heads"])
        except KeyError as error:
            raise WeightsError(f"{folder / MODEL_FILE} has no tensor {error}, so it is no Whisper model.") from error
        width, mel_bins, _ = state["conv1.weight"].shape
        return cls(mel_bins, width, layers, heads, state)

    def first(self, layers: int) -> Self:
        """The same encoder without the layers after the first `layers`."""
        kept = {
            name: tensor
            for name, tensor in self.state.items()
            if not name.startswith("layers.") or int(name.split(".")[1]) < layers
        }
        return replace(self, layers=min(layers, self.layers), state=kept)


def _encoder_state(variables: dict[str, Array], layers: int) -> dict[str, torch.Tensor]:
    names = {
        "conv1": "conv1",
        "conv2": "conv2",
        "norm": "layer_norm",
    }
    for i in range(layers):
        names |= {
            f"layers.{i}.attention_norm": f"layer_{i}/self_attention/layer_norm",
            f"layers.{i}.query_key_value": f"layer_{i}/self_attention/linear_0",
            f"layers.{i}.attention_output": f"layer_{i}/self_attention/linear_1",
            f"layers.{i}.feed_forward_norm": f"layer_{i}/ffn/layer_norm",
            f"layers.{i}.feed_forward.0": f"layer_{i}/ffn/linear_0",
            f"layers.{i}.feed_forward.2": f"layer_{i}/ffn/linear_1",
        }
    state = {}
    for ours, theirs in names.items():
        weight, bias = ("gamma", "beta") if theirs.endswith("layer_norm") else ("weight", "bias")
        state[f"{ours}.weight"] = _float_tensor(variables, f"encoder/{theirs}/{weight}")
        state[f"{ours}.bias"] = _float_tensor(variables, f"encoder/{theirs}/{bias}")
    return state


def _float_tensor(variables: dict[str, Array], name: str) -> torch.Tensor:
    values = variables[name].astype(np.float32)
    scale = variables.get(f"{name}_scale")  # int8 weights: one per output row, value = int8 / scale
    if scale is not None:
        values /= scale.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return torch.from_numpy(values)


def read_variables(path: Path) -> dict[str, Array]:
    """All named tensors of a CTranslate2 `model.bin`, aliases included.

    Raises WeightsError where the file is missing, of another version, truncated or inconsistent.
    """
    try:
        reader = _Reader(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"Cannot read the weights file {path}: {error.strerror}.") from error
    try:
        return reader.variables()
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path} is no CTranslate2 model of version {VERSION}, or it is damaged: {error}."
        ) from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def variables(self) -> dict[str, Array]:
        version = self._number("I")
        if version != VERSION:
            raise ValueError(f"its version is {version}")
        self._string()  # the specification's name
        self._number("I")  # and revision
        found = dict(self._variable() for _ in range(self._number("I")))
        for _ in range(self._number("I")):
            alias = self._string()
            found[alias] = found[self._string()]
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes follow its end")
        return found

    def _variable(self) -> tuple[str, Array]:
        name = self._string()
        shape = [self._number("I") for _ in range(self._number("B"))]
        dtype = _DTYPES[self._number("B")]
        size = self._number("I")
        if size != prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has {size} bytes for shape {shape} of {dtype}")
        return name, np.frombuffer(self._take(size), dtype).reshape(shape)

    def _string(self) -> str:
        length = self._number("H")
        return bytes(self._take(length)[:-1]).decode()

    def _number(self, kind: str) -> int:
        size = struct.calcsize(f"<{kind}")
        (value,) = struct.unpack(f"<{kind}", self._take(size))
        return int(value)

    def _take(self, size: int) -> memoryview:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise ValueError("it ends early")
        self._at += size
        return taken
