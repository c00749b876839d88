"""What a speech recogniser made of a corpus's dialogues, turn by turn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel

from telme.corpora.records import Utterance


class Heard(BaseModel):
    """One turn's transcript. confidence: the recogniser's in it, in [0, 1]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[str, Field(min_length=1)]
    confidence: Annotated[float, Field(ge=0, le=1)]


_File = RootModel[dict[str, list[Heard | None]]]


class Transcripts:
    """Of whole dialogues, by the name that `Utterance.dialogue` gives; None for a turn that was not believed."""

    def __init__(self, dialogues: Mapping[str, Sequence[Heard | None]]) -> None:
        self._dialogues = dialogues

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(_File.model_validate_json(path.read_bytes()).root)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _File({name: list(turns) for name, turns in self._dialogues.items()})
        path.write_text(found.model_dump_json() + "\n", encoding="utf-8")

    def __contains__(self, dialogue: str) -> bool:
        return dialogue in self._dialogues

    def of(self, item: Utterance) -> Heard | None:
        """What was heard of the utterance itself."""
        return self.up_to(item)[-1]

    def up_to(self, item: Utterance) -> Sequence[Heard | None]:
        """What was heard of each of its turns."""
        heard = self._dialogues[str(item.dialogue)][: len(item.turns)]
        if len(heard) < len(item.turns):
            raise ValueError(f"{item.dialogue} has {len(item.turns)} turns or more, of which {len(heard)} were heard")
        return heard
