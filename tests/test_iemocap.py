"""IEMOCAP as TelME's authors tabulate it, whole and damaged."""

from pathlib import Path

import pytest

from telme.corpora import iemocap
from telme.corpora.records import CorpusError

HEADER = "Utterance,Speaker,Dialogue_ID,Start_Time,End_Time,Wav_Path,Video_Path,Emotion\n"
RELEASE = "./dataset/IEMOCAP_full_release/Session1"
WAV = f"{RELEASE}/sentences/wav/Ses01M_impro01"
VIDEO = f"{RELEASE}/dialog/avi/DivX/Ses01M_impro01.avi"


def row(text: str, name: str, start_s: object, end_s: object, label: str) -> str:
    return f'"{text}",Ses01M_impro01_{name},Ses01M_impro01,{start_s},{end_s},{WAV}/{name}.wav,{VIDEO},{label}\n'


GOOD = row("Next.", "F000", 6.77, 8.46, "ang")


def corpus_in(folder: Path, train: str) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in (("train", train), ("dev", GOOD), ("test", GOOD)):
        (folder / f"IEMOCAP_{split}.csv").write_text(HEADER + rows, encoding="utf-8")
    return folder


def test_a_dialogue_is_ordered_by_time_and_knows_its_actors(tmp_path: Path) -> None:
    rows = row("Third", "F001", 8.55, 10.6, "exc") + row("Second", "M000", 8.22, 11.28, "fru") + GOOD
    first, second, third = iemocap.load(corpus_in(tmp_path, rows)).split("train")
    assert [(turn.speaker, turn.text) for turn in third.turns] == [("F", "Next."), ("M", "Second"), ("F", "Third")]
    assert second.turns == third.turns[:2]
    assert first.turns == third.turns[:1]
    assert (second.id, second.dialogue, second.position) == ("Ses01M_impro01_M000", "Ses01M_impro01", 1)
    assert (second.speaker, third.speaker) == ("Ses01M", "Ses01F")
    assert (second.label, second.meld_label, second.video_span_s) == ("fru", "anger", (8.22, 11.28))
    assert second.audio is second.video is None


def test_files_are_found_below_the_release_wherever_it_lies(tmp_path: Path) -> None:
    corpus_in(tmp_path, GOOD)
    wav = tmp_path / "Session1/sentences/wav/Ses01M_impro01/F000.wav"
    wav.parent.mkdir(parents=True)
    wav.write_bytes(b"a wav")
    corpus = iemocap.load(tmp_path, clips=tmp_path)
    assert {item.audio for item in corpus.utterances} == {wav}
    assert {item.video for item in corpus.utterances} == {None}
    assert corpus.dropped == {"dialogue video missing or empty (the rest is used)": 3}


def test_bad_rows_are_counted_and_the_rest_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = (
        GOOD
        + row("No time", "F001", "soon", 9, "ang")
        + row("Ends before it begins", "F002", 10, 9, "ang")
        + row("Never ends", "F003", 10, "inf", "ang")
        + row("Nobody", "X004", 11, 12, "ang")
        + "Too short\n"
        + row("x" * 200_000, "F007", 11, 12, "ang")
        + row("Again", "F000", 6.77, 8.46, "ang")
        + row("Said with a label unknown", "M005", 12, 13, "xxx")
        + row("After it", "M006", 14, 15, "neu")
    )
    corpus = iemocap.load(corpus_in(tmp_path, rows))
    assert [item.turns[-1].text for item in corpus.split("train")] == ["Next.", "After it"]
    assert [turn.text for turn in corpus.split("train")[-1].turns][1] == "Said with a label unknown"
    assert corpus.dropped == {
        "unreadable row in IEMOCAP_train.csv": 6,
        "utterance that is there twice in IEMOCAP_train.csv": 1,
        "unknown label 'xxx' in train": 1,
    }
    assert "6 left out: unreadable row in IEMOCAP_train.csv" in caplog.text


def test_a_missing_or_another_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"has no IEMOCAP_train\.csv; give the folder"):
        iemocap.load(tmp_path)
    corpus_in(tmp_path, GOOD)
    (tmp_path / "IEMOCAP_dev.csv").write_text("text,label\nhello,joy\n")
    with pytest.raises(CorpusError, match="no column Dialogue_ID, Emotion"):
        iemocap.load(tmp_path)
