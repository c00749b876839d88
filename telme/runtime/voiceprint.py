"""Speech -> a vector that is alike for one person's utterances and differs between people."""

from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from telme.features.voice import VoiceFeatures
from telme.runtime.model import Float32
from telme.runtime.onnxruntime import OnnxModel
from telme.voice import SPEAKER, VoiceBundle


class VoiceEncoder:
    """The speaker encoder and its features. Thread-safe."""

    def __init__(self, bundle: VoiceBundle, threads: int = 1) -> None:
        """threads: cores that one call may use. Raises BundleError when the model is not the one described."""
        self._features = VoiceFeatures(bundle.manifest.voice)
        self._model = OnnxModel(bundle.model, bundle.manifest.encoder, threads)

    @classmethod
    def load(cls, folder: Path | str = SPEAKER, threads: int = 1) -> Self:
        """Raises BundleError where the folder's manifest or model is missing or damaged."""
        return cls(VoiceBundle.open(folder), threads)

    def encode(self, samples: npt.NDArray[np.floating]) -> Float32:
        """The voice of one utterance: (D,), of length 1. The cosine of two of them tells how alike they are.

        samples: as `VoiceFeatures.extract` takes them. It is the mean over windows, each of length 1 before.
        """
        vectors = self._model.run({"mel": self._features.extract(samples)})["vector"]
        mean = vectors.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)
