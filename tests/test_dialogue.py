import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer import settings
from streamer.dialogue import Dialogue
from telme.features.text import Turn

SPEAKERS = st.sampled_from(["anna", "ben", "robot"])


def dialogue(**bounds: object) -> Dialogue:
    return Dialogue(settings.Dialogue(**bounds))


def test_the_utterance_asked_about_comes_last_and_is_not_added() -> None:
    talk = dialogue()
    talk.add("anna", "hello", 1.0, heard=True)
    talk.add("robot", "hi there", 2.0)
    expected = (
        Turn("anna", "hello", heard=True),
        Turn("robot", "hi there"),  # whose words are known
        Turn("anna", "how are you", heard=True),
    )
    assert talk.context("anna", "how are you", 3.0) == expected
    assert talk.context("anna", "how are you", 3.0) == expected


@given(st.lists(st.tuples(SPEAKERS, st.text(max_size=30)), max_size=30), st.integers(1, 8), st.integers(1, 10))
def test_bounded_and_in_order_whatever_is_said(said: list[tuple[str, str]], turns_max: int, chars_max: int) -> None:
    talk = dialogue(turns_max=turns_max, text_max_chars=chars_max)
    for speaker, text in said:
        talk.add(speaker, text, 0.0)
    context = talk.context("anna", "so", 0.0)
    assert len(context) <= turns_max
    assert all(len(turn.text) <= chars_max for turn in context)
    assert all(unicodedata.category(c) not in ("Cc", "Cs") for turn in context for c in turn.text)

    unbounded = dialogue(turns_max=200, text_max_chars=chars_max)
    for speaker, text in said:
        unbounded.add(speaker, text, 0.0)
    assert context == unbounded.context("anna", "so", 0.0)[-turns_max:]


@given(st.lists(st.floats(0, 300), min_size=1, max_size=20), st.floats(1, 60))
def test_a_dialogue_never_reaches_back_over_a_silence(pauses_s: list[float], reset_after_s: float) -> None:
    talk = dialogue(turns_max=200, reset_after_s=reset_after_s)
    now_s, since_silence = 0.0, 0
    for pause_s in pauses_s:
        before, now_s = now_s, now_s + pause_s
        since_silence = 1 if now_s - before >= reset_after_s else since_silence + 1
        talk.add("anna", "yes", now_s)
    assert len(talk) == since_silence


def test_a_long_text_keeps_its_end() -> None:
    talk = dialogue(text_max_chars=5)
    assert talk.context("anna", "I am so happy", 0.0) == (Turn("anna", "happy", heard=True),)


@pytest.mark.parametrize("text", ["", "  \n", "\x00\x1b"])
def test_nothing_said_adds_nothing(text: str) -> None:
    talk = dialogue()
    talk.add("anna", text, 0.0)
    assert len(talk) == 0


def test_control_characters_are_stripped() -> None:
    talk = dialogue()
    talk.add("anna", "one\ntwo\x1b[31m\x00 three", 0.0)
    assert talk.context("ben", "four", 0.0)[0] == Turn("anna", "one two[31m three")


def test_reset_forgets() -> None:
    talk = dialogue()
    talk.add("anna", "hello", 0.0)
    talk.reset()
    assert talk.context("anna", "who are you", 1.0) == (Turn("anna", "who are you", heard=True),)
