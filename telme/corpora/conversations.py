"""The corpora of dialogues with text, speech and video of the same utterances: what the teacher can be trained on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from telme.corpora import iemocap, meld
from telme.corpora.records import Corpus
from telme.labels import IEMOCAP, MELD


@dataclass(frozen=True)
class Conversations:
    """A corpus of dialogues.

    labels: its emotions, in the order of a model's logits.
    load: takes the folder with its tables, and the folder with its clips or None for the text alone.
    """

    labels: tuple[str, ...]
    load: Callable[[Path, Path | None], Corpus]


CONVERSATIONS: Mapping[str, Conversations] = {
    "meld": Conversations(MELD, meld.load),
    "iemocap": Conversations(IEMOCAP, iemocap.load),
}
