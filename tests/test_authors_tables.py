"""The TelME authors' own tables, read with their mistakes."""

from pathlib import Path

import pytest

from telme.corpora import authors_tables, meld
from telme.corpora.records import CorpusError
from telme.features.text import Turn

HEADER = "Sr No.,Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID,Video_Path\n"
ROW = '{},"{}",{},{},{},{},./dataset/MELD.Raw/output_repeated_splits_test/dia{}_utt{}.mp4\n'


def row(text: str, speaker: str, dialogue: int, place: int, label: str = "joy") -> str:
    return ROW.format(place, text, speaker, label, dialogue, place, dialogue, place)


def test_nothing_is_mended(tmp_path: Path) -> None:
    """Order, spaces, control characters and a dialogue that is interrupted stay; the speaker is sought one too late."""
    rows = [
        row(" You\x92re late ", "Ross", 7, 1),
        row("So?", "Joey", 7, 0),
        row("Hm.", "Joey", 3, 0),
        row("", "Ross", 7, 2),
    ]
    (tmp_path / "test_meld_emo.csv").write_text(HEADER + "".join(rows), encoding="utf-8")
    first, second, third, fourth = authors_tables.load("meld", tmp_path)
    assert [item.utterance.id for item in (first, second, third, fourth)] == [
        *("test_dia7_utt1", "test_dia7_utt0", "test_dia3_utt0", "test_dia7_utt2"),
    ]
    assert second.utterance.turns == (Turn("Ross", " You\x92re late "), Turn("Joey", "So?"))
    assert fourth.utterance.turns == (Turn("Ross", ""),)
    assert [item.numbers for item in (first, second, third, fourth)] == [(1,), (1, 2), (2,), (1,)]
    assert first.utterance.video == tmp_path / "output_repeated_splits_test" / "dia7_utt1.mp4"


@pytest.mark.parametrize("bad", [row("Hi", "Ross", 0, 0, "smug"), "1,Hi,Ross,joy,0,0,elsewhere.mp4\n", "1,Hi\n"])
def test_a_row_that_their_code_could_not_use_is_one_sentence(bad: str, tmp_path: Path) -> None:
    (tmp_path / "test_meld_emo.csv").write_text(HEADER + row("Hi", "Ross", 0, 0) + bad)
    with pytest.raises(CorpusError, match=r"has a row that cannot be read .* use the TelME authors' own file\.$"):
        authors_tables.load("meld", tmp_path)


@pytest.mark.corpora
def test_their_own_table_holds_the_items_of_the_original(corpora: Path) -> None:
    """With 2,610 utterances in 280 dialogues, most of which open with a speaker numbered wrongly."""
    items = authors_tables.load("meld", corpora / "meld")
    assert [item.utterance.id for item in items] == [one.id for one in meld.load(corpora / "meld").split("test")]
    opening = [item.numbers[0] for item in items if item.utterance.position == 0]
    assert (len(items), len(opening)) == (2610, 280)
    assert sum(number != 1 for number in opening) == 233
