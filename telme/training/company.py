"""What speech and faces an utterance's text is put together with, in the fusion's training and in its scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from telme.labels import MELD
from telme.training.encodings import Encodings

PAIRED = "speech and faces of other corpora paired by label, which is easier than life"


class Batch(NamedTuple):
    """text, audio, visual: (B, d). audio_present, visual_present, confidence (in the text): (B,) float. truth: (B,)."""

    text: Tensor
    audio: Tensor
    visual: Tensor
    audio_present: Tensor
    visual_present: Tensor
    confidence: Tensor
    truth: Tensor

    def vectors(self, text: int, audio: int, visual: int) -> "Batch":
        """With so many values of each, as the fusion reads them: what follows in a row is the part's own head's."""
        return self._replace(text=self.text[:, :text], audio=self.audio[:, :audio], visual=self.visual[:, :visual])


@dataclass(frozen=True)
class Pairing:
    """How text finds speech and a face.

    audio_missing, visual_missing: how often there is none, in [0, 1].
    unmatched: how often, of those present, it is another utterance's, of any emotion.
    plain: how often a neutral text is said and shown with an emotion, any as often as another, which is then the truth.
    """

    audio_missing: float = 0.0
    visual_missing: float = 0.0
    unmatched: float = 0.0
    plain: float = 0.0


class Company(Protocol):
    """The encoded utterances of one split."""

    @property
    def text(self) -> Encodings: ...
    @property
    def audio(self) -> Encodings: ...
    @property
    def visual(self) -> Encodings: ...

    @property
    def note(self) -> str:
        """Where speech and faces come from, for the reader of the scores."""
        ...

    def pair(self, pairing: Pairing, random: np.random.Generator) -> Batch:
        """Every text of the split, in order, with the company that `pairing` gives it."""
        ...


@dataclass(frozen=True)
class Material:
    """Text of one corpus, speech and faces of others: a text gets speech and a face of the same emotion.

    Plain pairings are for MELD's labels alone.
    """

    text: Encodings
    audio: Encodings
    visual: Encodings
    note: str = field(default=PAIRED, init=False)

    def pair(self, pairing: Pairing, random: np.random.Generator) -> Batch:
        plain = (self.text.truth == MELD.index("neutral")) & (random.random(len(self.text)) < pairing.plain)
        truth = np.where(plain, random.integers(len(MELD), size=len(plain)), self.text.truth)
        unmatched = np.where(plain, 0, pairing.unmatched)
        audio, audio_present = _partners(truth, self.audio, pairing.audio_missing, unmatched, random)
        visual, visual_present = _partners(truth, self.visual, pairing.visual_missing, unmatched, random)
        unseen = (audio_present + visual_present).numpy() == 0
        truth = np.where(plain & unseen, self.text.truth, truth)
        present = (audio_present, visual_present)
        return Batch(self.text.vectors, audio, visual, *present, _confidence(self.text), torch.from_numpy(truth))


@dataclass(frozen=True)
class Paired:
    """Text, speech and pictures of the same utterances, by their ids; a clip that could not be read is missing."""

    text: Encodings
    audio: Encodings
    visual: Encodings
    note: str = field(default="speech and pictures of the same utterance", init=False)

    def pair(self, pairing: Pairing, random: np.random.Generator) -> Batch:
        ids = self.text.ids
        audio, audio_present = _own(ids, self.audio, pairing.audio_missing, pairing.unmatched, random)
        visual, visual_present = _own(ids, self.visual, pairing.visual_missing, pairing.unmatched, random)
        present = (audio_present, visual_present)
        truth = torch.from_numpy(self.text.truth)
        return Batch(self.text.vectors, audio, visual, *present, _confidence(self.text), truth)


def _confidence(text: Encodings) -> Tensor:
    """(n,); 1 for what people wrote down."""
    return torch.ones(len(text)) if text.confidence is None else torch.from_numpy(text.confidence)


def _partners(
    truth: npt.NDArray[np.int64],
    others: Encodings,
    missing: float,
    unmatched: npt.NDArray[np.float64],
    random: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """For each label in `truth` (n,) a random item of `others`: vectors (n, d) and whether there is one (n,).

    unmatched: (n,), how likely each one's item is of any label.
    """
    wanted = np.where(random.random(len(truth)) < unmatched, random.choice(others.truth, len(truth)), truth)
    chosen = np.zeros(len(truth), np.int64)
    present = random.random(len(truth)) >= missing
    for label in np.unique(wanted):
        places = np.flatnonzero(others.truth == label)
        if len(places):
            chosen[wanted == label] = random.choice(places, (wanted == label).sum())
        else:
            present[wanted == label] = False
    return others.vectors[chosen], torch.from_numpy(present.astype(np.float32))


def places_of(ids: Sequence[str], others: Sequence[str]) -> npt.NDArray[np.int64]:
    """Where each of `ids` stands among `others`: (n,), -1 where it does not."""
    place_of = {name: place for place, name in enumerate(others)}
    return np.array([place_of.get(name, -1) for name in ids], np.int64)


def _own(
    ids: Sequence[str], others: Encodings, missing: float, unmatched: float, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """For each id (n,) its own item of `others`, or a random one: vectors (n, d) and whether there is one (n,)."""
    own = places_of(ids, others.ids)
    chosen = np.where(random.random(len(ids)) < unmatched, random.integers(len(others), size=len(ids)), own)
    present = (chosen >= 0) & (random.random(len(ids)) >= missing)
    return others.vectors[chosen], torch.from_numpy(present.astype(np.float32))
