"""The test splits of MELD and IEMOCAP as the TelME authors' code reads them, to repeat their evaluation.

Source: `preprocessing.py` of github.com/yuntaeyang/TelME. Nothing is mended: rows stay in the table's order, text
stays as it stands, control characters and all, and speakers are counted as `authors_numbers` does.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from telme.corpora.records import CorpusError, Utterance
from telme.features.authors_text import authors_numbers
from telme.features.text import Turn
from telme.labels import IEMOCAP, MELD

Row = Mapping[str, str]


@dataclass(frozen=True)
class Item:
    """An utterance, whose turns hold the text as it stands, and the number of each turn's speaker, from 1."""

    utterance: Utterance
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Table:
    """How one corpus's test split is kept.

    files: names of the table, of which the first that is there is read.
    columns: what it needs to have.
    below: what a path in it ends in, below the corpus's folder.
    utterance: a row, where its files are, and the dialogue up to it -> the record.
    """

    files: tuple[str, ...]
    columns: tuple[str, ...]
    below: re.Pattern[str]
    utterance: Callable[[Row, Callable[[str], Path], tuple[Turn, ...]], Utterance]


def load(corpus: str, folder: Path) -> list[Item]:
    """The test split, in the table's order.

    corpus: "meld" or "iemocap". folder: holds the authors' table, and the clips as they are distributed.
    Raises CorpusError when the table is missing, or a row is not as the authors' code needs it.
    """
    table = _TABLES[corpus]
    path = next((folder / name for name in table.files if (folder / name).is_file()), None)
    if path is None:
        raise CorpusError(
            f"{folder} has no {table.files[0]}; copy it from the TelME authors' repository, for their figures come "
            "from their own table."
        )
    with path.open(encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        try:
            rows, columns = list(reader), set(reader.fieldnames or ())
        except csv.Error as error:
            raise CorpusError(f"{path} is no CSV table ({error}); use the TelME authors' own file.") from error
    if missing := set(table.columns) - columns:
        raise CorpusError(f"{path} has no column {', '.join(sorted(missing))}; use the TelME authors' own file.")
    dialogues = [list(successive) for _, successive in groupby(rows, key=lambda row: row["Dialogue_ID"])]
    numbers = authors_numbers([[row["Speaker"] for row in dialogue] for dialogue in dialogues])

    def below(named: str) -> Path:
        found = table.below.search(named)
        if found is None:
            raise ValueError(f"{named!r} is no path of the corpus")
        return folder / found[0]

    try:
        return [
            Item(table.utterance(row, below, _turns(dialogue[: place + 1])), tuple(counted[: place + 1]))
            for dialogue, counted in zip(dialogues, numbers, strict=True)
            for place, row in enumerate(dialogue)
        ]
    except (ValueError, TypeError) as error:  # a short row has None in its last columns
        raise CorpusError(
            f"{path} has a row that cannot be read ({error}); use the TelME authors' own file."
        ) from error


def _turns(rows: Sequence[Row]) -> tuple[Turn, ...]:
    return tuple(Turn(row["Speaker"], row["Utterance"]) for row in rows)


def _known(label: str, labels: Sequence[str]) -> str:
    if label not in labels:
        raise ValueError(f"unknown label {label!r}")
    return label


def _meld(row: Row, below: Callable[[str], Path], turns: tuple[Turn, ...]) -> Utterance:
    clip = below(row["Video_Path"])
    return Utterance(
        id=f"test_{clip.stem}",
        split="test",
        label=_known(row["Emotion"], MELD),
        meld_label=row["Emotion"],
        speaker=row["Speaker"],
        turns=turns,
        dialogue=f"test_dia{row['Dialogue_ID']}",
        position=len(turns) - 1,
        audio=clip,
        video=clip,
    )


def _iemocap(row: Row, below: Callable[[str], Path], turns: tuple[Turn, ...]) -> Utterance:
    return Utterance(
        id=row["Speaker"],  # in their table the speaker is the utterance
        split="test",
        label=_known(row["Emotion"], IEMOCAP),
        meld_label=None,
        speaker=row["Speaker"],
        turns=turns,
        dialogue=row["Dialogue_ID"],
        position=len(turns) - 1,
        audio=below(row["Wav_Path"]),
        video=below(row["Video_Path"]),
        video_span_s=(float(row["Start_Time"]), float(row["End_Time"])),
    )


_COMMON = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Video_Path")
_TABLES = {
    "meld": Table(
        ("test_meld_emo.csv", "authors_test_meld_emo.csv"),
        _COMMON,
        re.compile(r"output_repeated_splits_test/.+"),
        _meld,
    ),
    "iemocap": Table(
        ("IEMOCAP_test.csv",),
        (*_COMMON, "Wav_Path", "Start_Time", "End_Time"),
        re.compile(r"Session\d/.+"),
        _iemocap,
    ),
}
