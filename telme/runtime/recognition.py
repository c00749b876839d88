"""The model's answer for one utterance."""

from collections.abc import Mapping
from dataclasses import dataclass

from telme.bundle import Modality


@dataclass(frozen=True)
class Recognition:
    """One utterance's emotion.

    emotion: the most probable label.
    scores: label -> calibrated probability; they sum to 1.
    confidence: the probability of `emotion`, calibrated on held-out data.
    valence, arousal: in [-1, 1], expected under `scores`.
    modality_scores: each modality used -> its own head's calibrated probabilities.
    elapsed_ms: part name -> milliseconds spent in it, preprocessing included.
    """

    emotion: str
    scores: Mapping[str, float]
    confidence: float
    valence: float
    arousal: float
    modality_scores: Mapping[Modality, Mapping[str, float]]
    elapsed_ms: Mapping[str, float]

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities that this answer rests on."""
        return frozenset(self.modality_scores)
