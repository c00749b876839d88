"""Real inputs to compare an export on: prompts from MELD, speech from RAVDESS, faces from FER2013."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from export.errors import ExportError
from telme.bundle import VisualSpec
from telme.corpora import fer2013, meld, ravdess, waveforms
from telme.corpora.records import CorpusError, Split
from telme.corpora.waveforms import WaveformError
from telme.features.text import Turn
from telme.features.video import fit_square
from telme.runtime.encoders import Frame
from telme.runtime.model import Float32

COUNT = 64
T = TypeVar("T")


@dataclass(frozen=True)
class Samples:
    """As many utterances of each modality.

    text: dialogues that end with the utterance. audio: (n,) float32, 16 kHz. frames: prepared frames.
    """

    text: Sequence[Sequence[Turn]]
    audio: Sequence[Float32]
    frames: Sequence[Sequence[Frame]]

    @classmethod
    def read(cls, corpora: Path, visual: VisualSpec, count: int = COUNT, split: Split = "dev") -> Self:
        """`count` evenly spaced items of one part of each corpus.

        corpora: holds meld/, ravdess/ and fer2013/.
        split: dev, which is held out, to compare on; train, to find the ranges of activations.
        Raises ExportError when one cannot be read.
        """
        try:
            dialogues = meld.load(corpora / "meld").split(split)
            speech = [
                waveforms.read(clip.audio)
                for clip in _spread(ravdess.load(corpora / "ravdess").split(split), count)
                if clip.audio is not None
            ]
            faces, _ = fer2013.load(corpora / "fer2013").split(split)
        except (CorpusError, WaveformError) as error:
            raise ExportError(f"The real inputs that an export is compared on cannot be read: {error}") from error
        pictures = [
            fit_square(np.repeat(face[..., None], 3, axis=2), visual) for face in _spread(list(faces), count + 2)
        ]
        return cls(
            [dialogue.turns for dialogue in _spread(dialogues, count)],
            speech,
            [pictures[i : i + 1 + i % 3] for i in range(count)],  # one, two or three pictures an utterance
        )


def _spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items, evenly spaced; all of them where there are fewer."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)
