"""What engines are built of in tests: small parts with random weights, asked about random inputs."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
import small_run
from torch import nn

from export import signatures
from export.onnx import Signature
from export.parity import Answer
from export.part import PartName, Plan
from export.samples import Samples
from export.trained import Trained
from telme.features.text import Turn
from telme.runtime.model import Array, Model


@cache
def plans() -> MappingProxyType[PartName, Plan]:
    """One per part; an answer is one row of the inputs that the part is traced with."""
    with TemporaryDirectory() as folder:
        trained = Trained.read(small_run.write(Path(folder) / "small"))
    random = np.random.default_rng(0)

    def numbers(*shape: int) -> Array:
        return random.standard_normal(shape).astype(np.float32)

    specs, sizes = trained.specifications, trained.fusion.dimensions
    real = np.arange(20) < np.array([[20], [12], [7], [1]])
    heard = np.arange(50) < np.array([[50], [31], [20], [11]])
    seen = np.arange(3) < np.array([[3], [2], [1], [3]])
    words = random.integers(5, trained.tokenizer.get_vocab_size(), (4, 20))
    return MappingProxyType(
        {
            "text": _plan(
                "text",
                trained.text,
                signatures.text(specs.text, trained.text.dimensions),
                {"input_ids": words * real, "attention_mask": real.astype(np.int64)},
            ),
            "audio": _plan(
                "audio",
                trained.audio,
                signatures.audio(specs.audio, trained.audio.dimensions),
                {"features": numbers(4, 80, 50), "mask": heard},
            ),
            "visual": _plan(
                "visual",
                trained.visual,
                signatures.visual(specs.visual, trained.visual.dimensions),
                {"frames": numbers(4, 3, 1, 16, 16), "mask": seen.astype(np.float32)},
            ),
            "fusion": _plan(
                "fusion",
                trained.fusion,
                signatures.fusion(sizes),
                {
                    "text_vector": numbers(4, sizes.text),
                    "audio_vector": numbers(4, sizes.audio),
                    "visual_vector": numbers(4, sizes.visual),
                    "audio_present": np.array([1, 0, 1, 0], np.float32),
                    "visual_present": np.array([1, 1, 0, 0], np.float32),
                    "beta": np.full(4, 0.5, np.float32),
                },
            ),
        }
    )


def samples() -> Samples:
    """Utterances that the parts together are asked about."""
    random = np.random.default_rng(1)
    return Samples(
        [[Turn("a", "oh no, what is that?")]] * 4,
        [random.standard_normal(16_000).astype(np.float32) / 10 for _ in range(4)],
        [[random.integers(0, 255, (16, 16), np.uint8)] for _ in range(4)],
    )


def _plan(name: PartName, module: nn.Module, signature: Signature, example: dict[str, Array]) -> Plan:
    def ask(model: Model, batch: int) -> Sequence[Answer]:
        found = model.run(example)
        return [
            Answer(vector, logits)
            for vector, logits in zip(found.get("vector", found["logits"]), found["logits"], strict=True)
        ]

    rows = [{key: value[row : row + 1] for key, value in example.items()} for row in range(4)]
    return Plan(name, module, signature, example, ask, lambda: rows)
