"""Emotion label sets, the mappings between corpora, and valence/arousal coordinates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MELD = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
IEMOCAP = ("ang", "exc", "fru", "hap", "neu", "sad")

# Coordinates in [-1, 1]: Russell & Mehrabian (1977), "Evidence for a three-factor theory of emotions".
# Neutral at the origin is a convention, not a measurement.
VALENCE_AROUSAL: Mapping[str, tuple[float, float]] = {
    "anger": (-0.51, 0.59),
    "disgust": (-0.60, 0.35),
    "fear": (-0.64, 0.60),
    "joy": (0.81, 0.51),
    "neutral": (0.0, 0.0),
    "sadness": (-0.63, -0.27),
    "surprise": (0.40, 0.67),
}


@dataclass(frozen=True)
class LabelMapping:
    """How one corpus's labels read in MELD's seven.

    to_meld: corpus label -> MELD label. Labels without a counterpart are absent.
    lossy: the corpus labels whose mapping drops a distinction that the corpus makes.
    """

    to_meld: Mapping[str, str]
    lossy: frozenset[str] = frozenset()


RAVDESS = LabelMapping(
    {
        "neutral": "neutral",
        "calm": "neutral",
        "happy": "joy",
        "sad": "sadness",
        "angry": "anger",
        "fearful": "fear",
        "disgust": "disgust",
        "surprised": "surprise",
    },
    lossy=frozenset({"calm"}),
)
FER2013 = LabelMapping(
    {
        "angry": "anger",
        "disgust": "disgust",
        "fear": "fear",
        "happy": "joy",
        "neutral": "neutral",
        "sad": "sadness",
        "surprise": "surprise",
    }
)
# EmoDB's boredom has no counterpart among MELD's seven.
EMODB = LabelMapping(
    {
        "anger": "anger",
        "disgust": "disgust",
        "fear": "fear",
        "joy": "joy",
        "neutral": "neutral",
        "sadness": "sadness",
    }
)
IEMOCAP_TO_MELD = LabelMapping(
    {
        "ang": "anger",
        "fru": "anger",
        "exc": "joy",
        "hap": "joy",
        "neu": "neutral",
        "sad": "sadness",
    },
    lossy=frozenset({"fru"}),
)

_TO_MELD = {**{label: label for label in MELD}, **IEMOCAP_TO_MELD.to_meld}


def valence_arousal(probabilities: npt.NDArray[np.floating], labels: Sequence[str]) -> tuple[float, float]:
    """Expected (valence, arousal), each in [-1, 1], under a distribution over `labels`.

    probabilities: (C,), non-negative, summing to 1.
    labels: C names out of MELD's or IEMOCAP's set.
    """
    coordinates = np.array([VALENCE_AROUSAL[_TO_MELD[label]] for label in labels])  # (C, 2)
    valence, arousal = probabilities @ coordinates
    return float(valence), float(arousal)
