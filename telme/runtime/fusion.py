"""Brings an utterance's modalities together: attention-based modality shifting fusion (ASF), as a bundle's part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from telme.bundle import MODALITIES, FusionSpec, Modality
from telme.runtime.encoders import Encoded
from telme.runtime.model import Array, Float32, Model

STUDENTS: tuple[Modality, ...] = ("audio", "visual")


@dataclass(frozen=True)
class Encodings:
    """One utterance's modalities after their encoders; None where one is missing.

    text_confidence: how sure the speech recogniser was of the text, in [0, 1]; None where that is unknown.
    """

    text: Encoded | None = None
    audio: Encoded | None = None
    visual: Encoded | None = None
    text_confidence: float | None = None

    def present(self) -> dict[Modality, Encoded]:
        found = {modality: getattr(self, modality) for modality in MODALITIES}
        return {modality: encoded for modality, encoded in found.items() if encoded is not None}


class Fusion:
    """Shifts the teacher's vectors by what sound and picture say, and reads the emotion off them."""

    def __init__(self, model: Model, batch_max: int, spec: FusionSpec, sizes: Mapping[str, int]) -> None:
        """sizes: lengths of the "audio" and the "visual" utterance vector."""
        self._model = model
        self._batch_max = batch_max
        self._spec = spec
        self._absent = {name: np.zeros(size, np.float32) for name, size in sizes.items()}

    def logits(self, items: Sequence[Encodings]) -> list[Float32]:
        """Logits (C,) per utterance, not calibrated. Every item has text; a missing student shifts nothing."""
        found: list[Float32] = []
        for start in range(0, len(items), self._batch_max):
            inputs = self.collate(items[start : start + self._batch_max])
            found += list(self._model.run(inputs)["logits"])
        return found

    def collate(self, items: Sequence[Encodings]) -> dict[str, Array]:
        """Several utterances' model input. A missing student's vector is zero."""
        present = [item.present() for item in items]
        inputs: dict[str, Array] = {
            "text_vector": np.stack([found["text"].vector for found in present]),
            "beta": np.array([self._spec.bound(item.text_confidence) for item in items], np.float32),
        }
        for name in STUDENTS:
            vectors = [found[name].vector if name in found else self._absent[name] for found in present]
            inputs[f"{name}_vector"] = np.stack(vectors)
            inputs[f"{name}_present"] = np.array([name in found for found in present], np.float32)
        return inputs
