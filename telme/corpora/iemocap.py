"""IEMOCAP (Busso et al., 2008): ten actors in pairs, improvised and scripted dialogues, six emotions.

Reads the CSV files that TelME's authors publish (`IEMOCAP_train.csv`), whose rows name sentence wavs and dialogue
videos by paths below `Session1` … `Session5` of the original release. A video shows a whole dialogue and both actors.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from telme.corpora import tables
from telme.corpora.records import Corpus, CorpusError, Span, Split, Utterance
from telme.features.text import Turn, clean
from telme.labels import IEMOCAP, IEMOCAP_TO_MELD

LICENCE = "research only: released by the University of Southern California on signature"

_COLUMNS = {"Utterance", "Speaker", "Dialogue_ID", "Start_Time", "End_Time", "Wav_Path", "Video_Path", "Emotion"}
_ID = re.compile(r"(Ses\d\d)[FM]_.+_([FM])\w*")  # Ses01F_impro01_M003: session 1, M speaks
_BELOW = re.compile(r".*?(Session\d/.+)")


@dataclass(frozen=True)
class _Row:
    id: str
    dialogue: str
    actor: str
    turn: Turn
    span_s: Span
    wav: str
    video: str
    label: str


def load(folder: Path, clips: Path | None = None) -> Corpus:
    """Read all three splits as the authors made them; bad rows and missing files are counted and reported, not fatal.

    folder: holds `IEMOCAP_train.csv` and its sisters.
    clips: holds `Session1` … `Session5`; None when only the text is used.
    Raises CorpusError when a split's file is missing or has other columns.
    """
    dropped: Counter[str] = Counter()
    splits: tuple[Split, ...] = get_args(Split)
    utterances = [utterance for split in splits for utterance in _split(folder, split, clips, dropped)]
    corpus = Corpus("IEMOCAP", LICENCE, utterances, dropped)
    corpus.report()
    return corpus


def _split(folder: Path, split: Split, clips: Path | None, dropped: Counter[str]) -> Iterator[Utterance]:
    dialogues: dict[str, list[_Row]] = {}
    for row in tables.rows(_table(folder, split), _COLUMNS, "the file of TelME's authors", _row, _id, dropped):
        dialogues.setdefault(row.dialogue, []).append(row)
    for dialogue, rows in dialogues.items():
        rows.sort(key=lambda row: row.span_s)
        turns = tuple(row.turn for row in rows)
        for position, row in enumerate(rows):
            if row.label not in IEMOCAP:
                dropped[f"unknown label {row.label!r} in {split}"] += 1
                continue  # its turn stays: it was said, whatever was felt
            yield Utterance(
                id=row.id,
                split=split,
                label=row.label,
                meld_label=IEMOCAP_TO_MELD.to_meld[row.label],
                speaker=row.actor,
                turns=turns[: position + 1],
                dialogue=dialogue,
                position=position,
                audio=_file(clips, row.wav, "sentence wav", dropped),
                video=_file(clips, row.video, "dialogue video", dropped),
                video_span_s=row.span_s,
            )


def _table(folder: Path, split: Split) -> Path:
    table = folder / f"IEMOCAP_{split}.csv"
    if not table.is_file():
        raise CorpusError(f"{folder} has no {table.name}; give the folder that holds the CSV files for IEMOCAP.")
    return table


def _id(row: _Row) -> str:
    return row.id


def _row(fields: dict[str, str]) -> _Row:
    name = fields["Speaker"].strip()
    match = _ID.fullmatch(name)
    text = clean(fields["Utterance"])
    start_s, end_s = float(fields["Start_Time"]), float(fields["End_Time"])
    if match is None or not text or not 0 <= start_s < end_s < float("inf"):
        raise ValueError("not an utterance")
    session, who = match.groups()
    return _Row(
        id=name,
        dialogue=fields["Dialogue_ID"].strip(),
        actor=f"{session}{who}",
        turn=Turn(who, text),
        span_s=(start_s, end_s),
        wav=fields["Wav_Path"].strip(),
        video=fields["Video_Path"].strip(),
        label=fields["Emotion"].strip().lower(),
    )


def _file(clips: Path | None, named: str, what: str, dropped: Counter[str]) -> Path | None:
    if clips is None:
        return None
    below = _BELOW.fullmatch(named)
    path = clips / (below[1] if below else named)
    if path.is_file() and path.stat().st_size > 0:
        return path
    dropped[f"{what} missing or empty (the rest is used)"] += 1
    return None
