"""MELD as both of its publishers write it, whole and damaged."""

from collections import Counter
from pathlib import Path

import pytest

from telme.corpora import meld
from telme.corpora.records import CorpusError
from telme.labels import MELD

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
GOOD = '1,"You must\x92ve, Ross",Rachel,joy,positive,3,0,8,21,"00:16:16,059","00:16:21,731"\n'


def _corpus(folder: Path, train: str, rest: str = GOOD) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in (("train", train), ("dev", rest), ("test", rest)):
        (folder / f"{split}_sent_emo.csv").write_text(HEADER + rows, encoding="utf-8")
    return folder


def test_a_dialogue_becomes_causal_contexts(tmp_path: Path) -> None:
    rows = (
        GOOD + "3,Third,Rachel,anger,x,3,2,8,21,,\n2,Second,Ross,Neutral,x,3,1,8,21,,\n9,Other,Joey,fear,x,4,0,8,21,,\n"
    )
    first, second, third, other = meld.load(_corpus(tmp_path, rows)).split("train")
    assert [turn.text for turn in third.turns] == ["You must've, Ross", "Second", "Third"]
    assert second.turns == third.turns[:2]
    assert first.turns == third.turns[:1]
    assert [turn.text for turn in other.turns] == ["Other"]
    assert (third.id, third.dialogue, third.position, third.speaker) == ("train_dia3_utt2", "train_dia3", 2, "Rachel")
    assert (second.label, second.meld_label) == ("neutral", "neutral")


def test_bad_rows_are_counted_and_the_rest_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = (
        GOOD
        + "2,Numbers are words,Ross,joy,x,three,1,8,21,,\n"
        + "3,Too short\n"
        + "4,   ,Ross,joy,x,3,2,8,21,,\n"
        + "5,Said with a label unknown,Ross,smug,x,3,3,8,21,,\n"
        + "6,After it,Ross,joy,x,3,4,8,21,,\n"
    )
    corpus = meld.load(_corpus(tmp_path, rows))
    assert [item.id for item in corpus.split("train")] == ["train_dia3_utt0", "train_dia3_utt4"]
    said = [turn.text for turn in corpus.split("train")[-1].turns]
    assert said == ["You must've, Ross", "Said with a label unknown", "After it"]
    assert corpus.dropped == {
        "unreadable row in train_sent_emo.csv": 3,
        "unknown label 'smug' in train_sent_emo.csv": 1,
    }
    assert "3 left out: unreadable row in train_sent_emo.csv" in caplog.text
    assert corpus.terms == f"MELD: {meld.LICENCE}"


def test_rows_that_are_too_short_or_no_csv_are_counted(tmp_path: Path) -> None:
    short_in_every_way = "".join(f"{','.join(['2', 'Said', 'Ross', 'joy', 'x', '3'][:n])}\n" for n in range(1, 7))
    endless = f'3,"{"x" * 200_000}",Ross,joy,x,3,1,8,21,,\n'
    corpus = meld.load(_corpus(tmp_path, short_in_every_way + endless + GOOD))
    assert [item.id for item in corpus.split("train")] == ["train_dia3_utt0"]
    assert corpus.dropped == {"unreadable row in train_sent_emo.csv": 7}


def test_an_utterance_that_is_there_twice_is_read_once(tmp_path: Path) -> None:
    again = '9,"Another text",Rachel,anger,negative,3,0,8,21,,\n'
    corpus = meld.load(_corpus(tmp_path, GOOD + again))
    (only,) = corpus.split("train")
    assert (only.label, len(only.turns)) == ("joy", 1)
    assert corpus.dropped == {"utterance that is there twice in train_sent_emo.csv": 1}


def test_bytes_that_are_no_utf8_are_read_over(tmp_path: Path) -> None:
    folder = _corpus(tmp_path, GOOD)
    (folder / "train_sent_emo.csv").write_bytes(
        (HEADER + GOOD).encode("cp1252", "replace") + b"2,caf\xe9,R,joy,x,3,1,8,21,,\n"
    )
    assert [item.turns[-1].text for item in meld.load(folder).split("train")][1] == "caf"


def test_clips_are_found_and_missing_ones_counted(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    (clips / "train_splits").mkdir(parents=True)
    (clips / "train_splits" / "dia3_utt0.mp4").write_bytes(b"a clip")
    (clips / "dev_splits_complete").mkdir()
    (clips / "dev_splits_complete" / "dia3_utt0.mp4").touch()
    corpus = meld.load(_corpus(tmp_path / "csv", GOOD), clips)
    (train,), (dev,), (test,) = (corpus.split(split) for split in ("train", "dev", "test"))
    assert train.audio == train.video == clips / "train_splits" / "dia3_utt0.mp4"
    assert dev.video is None
    assert test.audio is None
    assert corpus.dropped.total() == 2


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"train_sent_emo\.csv; give the folder"):
        meld.load(tmp_path)


def test_another_table_is_refused(tmp_path: Path) -> None:
    folder = _corpus(tmp_path, GOOD)
    (folder / "dev_sent_emo.csv").write_text("text,label\nhello,joy\n")
    with pytest.raises(CorpusError, match="no column Dialogue_ID, Emotion"):
        meld.load(folder)
    (folder / "dev_sent_emo.csv").write_text("x" * 200_000)
    with pytest.raises(CorpusError, match="is no CSV table"):
        meld.load(folder)


@pytest.mark.corpora
def test_both_publishers_files_read_the_same(corpora: Path, tmp_path: Path) -> None:
    original = meld.load(corpora / "meld")
    sizes = Counter(item.split for item in original.utterances)
    assert sizes == {"train": 9989, "dev": 1109, "test": 2610}
    assert len({item.dialogue for item in original.utterances}) == 1038 + 114 + 280
    assert {item.label for item in original.utterances} == set(MELD)
    assert not original.dropped
    for split in ("train", "dev", "test"):
        name = f"authors_{split}_meld_emo.csv"
        (tmp_path / name).symlink_to(corpora / "meld" / name)
    authors = meld.load(tmp_path)
    differing = [a.id for a, b in zip(original.utterances, authors.utterances, strict=True) if a != b]
    assert differing == ["train_dia556_utt6"]  # the two publish another sentence of another speaker there
