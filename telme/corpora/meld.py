"""MELD (Poria et al., ACL 2019, arXiv 1810.02508): dialogues from a television series, seven emotions.

Reads the CSV files as the corpus's authors publish them (`train_sent_emo.csv`) and as TelME's authors do
(`authors_train_meld_emo.csv` or `train_meld_emo.csv`), and the clips where a folder with them is given.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from telme.corpora import tables
from telme.corpora.records import Corpus, CorpusError, Split, Utterance
from telme.features.text import Turn, clean
from telme.labels import MELD

LICENCE = "research only: transcripts and clips of a television series under copyright"
CLIPS: Mapping[Split, str] = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}

_COLUMNS = {"Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"}


@dataclass(frozen=True)
class _Row:
    dialogue: int
    utterance: int
    turn: Turn
    label: str


def load(folder: Path, clips: Path | None = None) -> Corpus:
    """Read all three splits; bad rows and missing clips are counted and reported, not fatal.

    folder: holds the CSV files.
    clips: holds `train_splits/diaX_uttY.mp4` and its sisters; None when only the text is used.
    Raises CorpusError when a split's file is missing or has other columns.
    """
    dropped: Counter[str] = Counter()
    utterances = [utterance for split in CLIPS for utterance in _split(_table(folder, split), split, clips, dropped)]
    corpus = Corpus("MELD", LICENCE, utterances, dropped)
    corpus.report()
    return corpus


def _split(table: Path, split: Split, clips: Path | None, dropped: Counter[str]) -> Iterator[Utterance]:
    dialogues: dict[int, list[_Row]] = {}
    for row in tables.rows(table, _COLUMNS, "MELD's original file", _row, _key, dropped):
        dialogues.setdefault(row.dialogue, []).append(row)
    for number, rows in dialogues.items():
        rows.sort(key=lambda row: row.utterance)
        turns = tuple(row.turn for row in rows)
        for position, row in enumerate(rows):
            if row.label not in MELD:
                dropped[f"unknown label {row.label!r} in {table.name}"] += 1
                continue  # its turn stays: it was said, whatever was felt
            clip = _clip(clips, split, row, dropped)
            yield Utterance(
                id=f"{split}_dia{number}_utt{row.utterance}",
                split=split,
                label=row.label,
                meld_label=row.label,
                speaker=row.turn.speaker,
                turns=turns[: position + 1],
                dialogue=f"{split}_dia{number}",
                position=position,
                audio=clip,
                video=clip,
            )


def _key(row: _Row) -> tuple[int, int]:
    return row.dialogue, row.utterance


def _row(fields: dict[str, str]) -> _Row:
    turn = Turn(clean(fields["Speaker"]), clean(fields["Utterance"]))
    if not turn.text:
        raise ValueError("no text")
    return _Row(int(fields["Dialogue_ID"]), int(fields["Utterance_ID"]), turn, fields["Emotion"].strip().lower())


def _clip(clips: Path | None, split: Split, row: _Row, dropped: Counter[str]) -> Path | None:
    if clips is None:
        return None
    path = clips / CLIPS[split] / f"dia{row.dialogue}_utt{row.utterance}.mp4"
    if path.is_file() and path.stat().st_size > 0:
        return path
    dropped[f"clip missing or empty in {CLIPS[split]} (its text is used)"] += 1
    return None


def _table(folder: Path, split: Split) -> Path:
    names = (f"{split}_sent_emo.csv", f"authors_{split}_meld_emo.csv", f"{split}_meld_emo.csv")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CorpusError(f"{folder} has no {names[0]}; give the folder that holds MELD's CSV files.")
