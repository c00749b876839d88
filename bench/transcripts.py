"""What a speech recogniser made of a corpus's dialogues, turn by turn."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from telme.corpora.records import Utterance


class Transcripts:
    """Of whole dialogues, by the name that `Utterance.dialogue` gives; None for a turn that was not believed."""

    def __init__(self, dialogues: Mapping[str, Sequence[str | None]]) -> None:
        self._dialogues = dialogues

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._dialogues) + "\n", encoding="utf-8")

    def __contains__(self, dialogue: str) -> bool:
        return dialogue in self._dialogues

    def of(self, item: Utterance) -> str | None:
        """What was heard of the utterance itself."""
        return self.up_to(item)[-1]

    def up_to(self, item: Utterance) -> Sequence[str | None]:
        """What was heard of each of its turns."""
        heard = self._dialogues[str(item.dialogue)][: len(item.turns)]
        if len(heard) < len(item.turns):
            raise ValueError(f"{item.dialogue} has {len(item.turns)} turns or more, of which {len(heard)} were heard")
        return heard
