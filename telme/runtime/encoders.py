"""One modality at a time: raw input -> features -> utterance vector and logits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from telme.bundle import Part
from telme.features.audio import AudioFeatures
from telme.features.text import Ids, Prompter, Turn, clean
from telme.features.video import VideoFeatures
from telme.runtime.model import Array, Float32, Model

BATCH_MAX = 32

Frame = npt.NDArray[np.uint8]
Raw = TypeVar("Raw")
Features = TypeVar("Features")


def batch_max(part: Part) -> int:
    """How many utterances a part may see at once without one changing another's answer.

    The scales of int8-dynamic come from the whole batch. Those of int8-static do not, but a CPU adds up the float32
    values before them in another order in larger batches, and where that tips one over the edge of a step, all that
    follows differs: by up to a hundredth of a probability.
    """
    on_cpu = part.backend in ("onnxruntime", "openvino")
    return 1 if on_cpu and part.precision in ("int8-dynamic", "int8-static") else BATCH_MAX


@dataclass(frozen=True)
class Encoded:
    """What one modality of one utterance says.

    vector: (D,), the utterance vector that the fusion reads.
    logits: (C,), of the modality's own head, not calibrated.
    elapsed_ms: time spent on it, preprocessing included; within a batch, an equal share of the batch's time.
    """

    vector: Float32
    logits: Float32
    elapsed_ms: float


class Encoder(ABC, Generic[Raw, Features]):
    """A modality's preprocessing and its part of the bundle."""

    def __init__(self, model: Model, batch_max: int) -> None:
        self._model = model
        self._batch_max = batch_max

    @abstractmethod
    def extract(self, raw: Raw) -> Features | None:
        """Model input of one utterance; None where there is too little of it."""

    @abstractmethod
    def collate(self, items: Sequence[Features]) -> dict[str, Array]:
        """Several utterances' model input, padded to one batch."""

    def encode(self, raws: Sequence[Raw | None]) -> list[Encoded | None]:
        """Encode utterances; those that are missing stay None."""
        started = perf_counter()
        found = [(i, item) for i, raw in enumerate(raws) if raw is not None and (item := self.extract(raw)) is not None]
        outputs: list[tuple[int, Float32, Float32]] = []
        for start in range(0, len(found), self._batch_max):
            places, items = zip(*found[start : start + self._batch_max], strict=True)
            output = self._model.run(self.collate(items))
            outputs += zip(places, output["vector"], output["logits"], strict=True)
        elapsed_ms = 1000 * (perf_counter() - started) / max(len(found), 1)
        encoded: list[Encoded | None] = [None] * len(raws)
        for place, vector, logits in outputs:
            encoded[place] = Encoded(vector, logits, elapsed_ms)
        return encoded


class TextEncoder(Encoder[Sequence[Turn], Ids]):
    """The teacher: a dialogue that ends with the utterance in question."""

    def __init__(self, model: Model, batch_max: int, prompter: Prompter) -> None:
        super().__init__(model, batch_max)
        self._prompter = prompter

    def extract(self, raw: Sequence[Turn]) -> Ids | None:
        if isinstance(raw, str) or not all(isinstance(turn, Turn) and isinstance(turn.text, str) for turn in raw):
            raise TypeError("Text must be a sequence of telme.features.text.Turn, each with a speaker and a str.")
        if not raw or not clean(raw[-1].text):
            return None
        return self._prompter.encode(raw)

    def collate(self, items: Sequence[Ids]) -> dict[str, Array]:
        input_ids, attention_mask = self._prompter.batch(items)
        return {"input_ids": input_ids, "attention_mask": attention_mask}


class AudioEncoder(Encoder[Float32, Float32]):
    """The audio student: an utterance's samples."""

    def __init__(self, model: Model, batch_max: int, features: AudioFeatures) -> None:
        super().__init__(model, batch_max)
        self._features = features

    def extract(self, raw: Float32) -> Float32 | None:
        return self._features.extract(raw)

    def collate(self, items: Sequence[Float32]) -> dict[str, Array]:
        batch = self._features.batch(items)
        return {"features": batch.features, "mask": batch.mask}


class VisualEncoder(Encoder[Sequence[Frame], list[Frame]]):
    """The visual student: frames that `VideoFeatures.prepare` has made."""

    def __init__(self, model: Model, batch_max: int, features: VideoFeatures) -> None:
        super().__init__(model, batch_max)
        self._features = features

    def extract(self, raw: Sequence[Frame]) -> list[Frame] | None:
        frames = self._features.select(raw)
        for frame in frames:
            self._features.demand_prepared(frame)
        return frames or None

    def collate(self, items: Sequence[list[Frame]]) -> dict[str, Array]:
        frames, mask = self._features.batch(items)
        return {"frames": frames, "mask": mask}
