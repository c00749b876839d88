"""One record type for the utterances of every corpus."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from telme.features.text import Turn

log = logging.getLogger(__name__)

Split = Literal["train", "dev", "test"]
Span = tuple[float, float]  # start and end in seconds


class CorpusError(Exception):
    """A corpus that cannot be used at all; the message is one sentence that says what to change."""


@dataclass(frozen=True)
class Utterance:
    """One stretch of one person's speech, with whatever the corpus has of it.

    id: unique within the corpus.
    label: in the corpus's own terms.
    meld_label: the same in MELD's terms, or None where MELD has no counterpart.
    speaker: whoever speaks, acts or shows the face; splits never share one, where the corpus allows it.
    turns: the dialogue up to and including this utterance, oldest first; empty for a corpus without text.
    said: its words, in a corpus of prescribed sentences, from which no teacher can tell its emotion.
    dialogue, position: the dialogue's id and this utterance's place in it, from 0.
    audio, video: files that hold the utterance, or None; sound files hold nothing else.
    video_span_s: where in `video` the utterance is; None where it is all of it.
    image: for a corpus of still faces kept in one array, the index of this one.
    """

    id: str
    split: Split
    label: str
    meld_label: str | None
    speaker: str
    turns: tuple[Turn, ...] = ()
    said: str | None = None
    dialogue: str | None = None
    position: int = 0
    audio: Path | None = None
    video: Path | None = None
    video_span_s: Span | None = None
    image: int | None = None

    def label_among(self, labels: Sequence[str]) -> str | None:
        """What it is called among `labels`: its own label, or else MELD's; None where they have neither."""
        return next((label for label in (self.label, self.meld_label) if label in labels), None)


@dataclass(frozen=True)
class Corpus:
    """The utterances of a corpus, and how many were left out, by reason."""

    name: str
    licence: str
    utterances: Sequence[Utterance]
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def terms(self) -> str:
        """Its name and what it allows weights to be used for."""
        return f"{self.name}: {self.licence}"

    def split(self, name: Split) -> list[Utterance]:
        return [utterance for utterance in self.utterances if utterance.split == name]

    def report(self) -> None:
        """Log how many utterances there are, and what was left out and why."""
        sizes = Counter(utterance.split for utterance in self.utterances)
        log.info("%s: %s", self.name, ", ".join(f"{count} {split}" for split, count in sizes.items()) or "empty")
        for reason, count in self.dropped.items():
            log.warning("%s: %d left out: %s", self.name, count, reason)


def digest(utterances: Iterable[Utterance]) -> str:
    """Tells one set of utterances from another: SHA-256 of ids, splits, labels and texts, not of sound and pictures."""
    found = hashlib.sha256()
    for one in utterances:
        said = [(turn.speaker, turn.text) for turn in one.turns]
        found.update(json.dumps([one.id, one.split, one.label, said]).encode())
    return found.hexdigest()


def grouping(utterances: Sequence[Utterance]) -> tuple[str, tuple[str, ...]]:
    """By what utterances depend on each other, and each one's group: its dialogue, else its speaker, else itself."""
    dialogues = tuple(utterance.dialogue for utterance in utterances if utterance.dialogue is not None)
    if len(dialogues) == len(utterances):
        return "dialogue", dialogues
    speakers = tuple(utterance.speaker for utterance in utterances)
    if len(set(speakers)) < len(speakers):
        return "speaker", speakers
    return "item", tuple(utterance.id for utterance in utterances)
