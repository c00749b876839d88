"""Brings an utterance's modalities together: attention-based modality shifting fusion (ASF), as a bundle's part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from telme.bundle import MODALITIES, Modality
from telme.runtime.encoders import Encoded
from telme.runtime.model import Array, Float32, Model


@dataclass(frozen=True)
class Encodings:
    """One utterance's modalities after their encoders; None where one is missing."""

    text: Encoded | None = None
    audio: Encoded | None = None
    visual: Encoded | None = None

    def present(self) -> dict[Modality, Encoded]:
        found = {modality: getattr(self, modality) for modality in MODALITIES}
        return {modality: encoded for modality, encoded in found.items() if encoded is not None}


class Fusion:
    """Shifts the teacher's vectors by what sound and picture say, and reads the emotion off them."""

    def __init__(self, model: Model, batch_max: int, beta: float) -> None:
        """beta: bound of the shift, as a share of the text vector's length."""
        self._model = model
        self._batch_max = batch_max
        self._beta = beta

    def logits(self, items: Sequence[Encodings]) -> list[Float32]:
        """Logits (C,) per utterance, not calibrated. Every item has text; a missing student shifts nothing."""
        found: list[Float32] = []
        for start in range(0, len(items), self._batch_max):
            inputs = self.collate(items[start : start + self._batch_max])
            found += list(self._model.run(inputs)["logits"])
        return found

    def collate(self, items: Sequence[Encodings]) -> dict[str, Array]:
        """Several utterances' model input. A missing student's vector is zero."""
        text = np.stack([item.text.vector for item in items if item.text is not None])
        nothing = np.zeros_like(text[0])  # all three vectors have one size
        audio = [nothing if item.audio is None else item.audio.vector for item in items]
        visual = [nothing if item.visual is None else item.visual.vector for item in items]
        return {
            "text_vector": text,
            "audio_vector": np.stack(audio),
            "visual_vector": np.stack(visual),
            "audio_present": np.array([item.audio is not None for item in items]),
            "visual_present": np.array([item.visual is not None for item in items]),
            "beta": np.full(len(items), self._beta, np.float32),
        }
