"""What bench/misheard_text.py does to dialogues before it scores them."""

import jiwer
import numpy as np
import pytest
from misheard_text import KINDS, disturbed

from telme.corpora.records import Utterance
from telme.features.text import Turn
from telme.training.text_noise import Recogniser, words_of

SAID = "Well, Anna, have you ever seen the Rain, or a bear that sleeps in the snow?"


def _dialogues(number: int) -> list[Utterance]:
    return [Utterance(str(place), "test", "joy", "joy", "a", (Turn("a", SAID),)) for place in range(number)]


@pytest.mark.parametrize(
    ("kind", "wrong", "plain"),
    [
        ("as written", 0.0, 0.0),
        ("word errors", 0.2, 0.0),
        ("no punctuation, no capitals", 0.0, 1.0),
        ("word errors, and half without either", 0.2, 0.5),
        ("word errors, all without either", 0.2, 1.0),
    ],
)
def test_each_kind_has_the_mistakes_of_its_name(kind: str, wrong: float, plain: float) -> None:
    other = " ".join(chr(97 + place % 26) + chr(97 + place // 26) for place in range(400))
    heard = [item.turns[0].text for item in disturbed(_dialogues(400), Recogniser(KINDS[kind], [SAID, other]), draw=0)]
    rate = jiwer.wer([" ".join(words_of(SAID))] * 400, [" ".join(words_of(text)) for text in heard])
    assert rate == pytest.approx(wrong, abs=0.02)
    assert np.mean([text == " ".join(words_of(text)) for text in heard]) == pytest.approx(plain, abs=0.08)


def test_draws_differ_and_can_be_repeated() -> None:
    recogniser = Recogniser(KINDS["word errors"], [SAID])
    first, second, again = (disturbed(_dialogues(20), recogniser, draw) for draw in (0, 1, 0))
    assert first == again
    assert first != second
