"""How bench/spoken_dialogues.py has MELD spoken and exclaimed, and how bench/heard_dialogues.py counts mistakes."""

from pathlib import Path

import numpy as np
import pytest
from heard_dialogues import EXCLAIMED, Errors, as_exclaimed, heard
from hypothesis import given
from hypothesis import strategies as st
from spoken_dialogues import lines, whole
from transcripts import Transcripts

from telme.corpora.records import Utterance
from telme.features.text import Turn

texts = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20)


@given(texts, texts, st.text())
def test_only_what_is_written_with_a_mark_is_exclaimed(written: str, text: str, name: str) -> None:
    turn = Turn("a", written)
    assert "!" not in as_exclaimed(text, turn, name, 0.0)
    assert ("!" in as_exclaimed(text, turn, name, 1.0)) == ("!" in written)
    assert as_exclaimed(text, turn, name, EXCLAIMED) in (as_exclaimed(text, turn, name, share) for share in (0.0, 1.0))


def test_a_share_of_the_marks_is_heard_the_same_ones_each_time() -> None:
    marked = [as_exclaimed("Oh no.", Turn("a", "Oh no!"), f"d_{place}", EXCLAIMED) for place in range(1000)]
    assert set(marked) == {"Oh no.", "Oh no!"}
    assert 250 < marked.count("Oh no!") < 350
    assert marked == [as_exclaimed("Oh no.", Turn("a", "Oh no!"), f"d_{place}", EXCLAIMED) for place in range(1000)]


def test_mistakes_are_counted_as_whisper_s_authors_do() -> None:
    said, understood = ["Okay, I'm 20!", "Uh, no.", "..."], ["okay I am twenty", "Yes no", "you"]
    assert Errors.of(said, understood) == Errors(words=5, wrong=1)  # "uh" is no word, and nothing was said last


def test_a_dialogue_is_spoken_once_and_whole() -> None:
    turns = tuple(Turn("ab"[place % 2], str(place)) for place in range(3))
    items = [
        Utterance(str(place), "test", "joy", "joy", "a", turns[: place + 1], dialogue="d", position=place)
        for place in (2, 0, 1)
    ]
    assert whole(items) == {"d": turns}
    spoken = lines(whole(items), [20.0, 40.0])
    assert [line.turn for line in spoken] == list(turns)
    assert len({line.name for line in spoken}) == 3
    assert len({line.snr_db for line in spoken}) == 1
    assert 20 <= spoken[0].snr_db <= 40
    assert {line.snr_db for line in lines({str(n): turns for n in range(9)}, [30.0])} == {30.0}


@pytest.mark.parametrize(("exclaimed", "last"), [(0.0, "Oh no."), (1.0, "Oh no!")])
def test_what_was_heard_is_exclaimed_as_often_as_it_is_asked_for(exclaimed: float, last: str) -> None:
    turns = (Turn("a", "Well."), Turn("b", "What?"), Turn("a", "Oh no!"))
    item = Utterance("u", "test", "joy", "joy", "a", turns, dialogue="d", position=2)
    transcripts = Transcripts({"d": ["Well!", None, "Oh no."]})
    assert heard(item, transcripts, exclaimed).turns == (
        Turn("a", "Well."),
        Turn("a", last),
    )


def test_noise_lies_as_far_below_the_speech_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import spoken_dialogues

    tone = np.sin(np.arange(16_000) / 5).astype(np.float32)
    monkeypatch.setattr(spoken_dialogues, "speak", lambda _: tone)
    room = spoken_dialogues.Room()
    quiet, loud = (room.sound(spoken_dialogues.Line("d_0", Turn("a", "x"), snr_db)) for snr_db in (40.0, 20.0))
    silence = len(spoken_dialogues.SILENCE)
    assert len(quiet) == len(tone) + 2 * silence
    power = [float(np.mean(np.square(sound[:silence]))) for sound in (quiet, loud)]
    assert 10 * np.log10(power[1] / power[0]) == pytest.approx(20, abs=0.1)
    speech = 10 * np.log10(np.mean(np.square(quiet[silence:-silence])))
    assert speech == pytest.approx(spoken_dialogues.SPEECH_DBFS, abs=0.5)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    turns = (Turn("a", "Well."), Turn("b", "What?"))
    item = Utterance("u", "test", "joy", "joy", "b", turns, dialogue="d", position=1)
    dialogue = ["Well", None]
    Transcripts({"d": dialogue}).write(tmp_path / "below" / "heard.json")
    read = Transcripts.read(tmp_path / "below" / "heard.json")
    assert "d" in read
    assert read.up_to(item) == dialogue
    assert read.of(item) is None
    with pytest.raises(ValueError, match="d has 2 turns or more, of which 1 were heard"):
        Transcripts({"d": dialogue[:1]}).of(item)
