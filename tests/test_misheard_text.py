"""What bench/misheard_text.py has done to dialogues before it scores them."""

import jiwer
import numpy as np
import pytest
from misheard_text import KINDS

from telme.corpora.records import Corpus, Utterance
from telme.features.text import Turn
from telme.training.config import TextNoise
from telme.training.teacher import mishear
from telme.training.text_noise import words_of

SAID = "Well, Anna, have you ever seen the Rain, or a bear that sleeps in the snow?"


OTHERS = " ".join(chr(97 + place % 26) + chr(97 + place // 26) for place in range(400))


def _heard(noise: TextNoise, number: int, draw: int = 0) -> list[str]:
    """What is heard of SAID, so many times over; the train split has other words to mistake it for."""
    train, *test = (
        Utterance(str(place), "test" if place else "train", "joy", "joy", "a", (Turn("a", SAID if place else OTHERS),))
        for place in range(number + 1)
    )
    return [item.turns[0].text for item in mishear(test, Corpus("MELD", "", [train, *test]), noise, draw)]


@pytest.mark.parametrize(
    ("kind", "wrong", "plain"),
    [
        ("word errors", 0.2, 0.0),
        ("no punctuation, no capitals", 0.0, 1.0),
        ("word errors, and half without either", 0.2, 0.5),
        ("word errors, all without either", 0.2, 1.0),
    ],
)
def test_each_kind_has_the_mistakes_of_its_name(kind: str, wrong: float, plain: float) -> None:
    heard = _heard(KINDS[kind], 400)
    rate = jiwer.wer([" ".join(words_of(SAID))] * 400, [" ".join(words_of(text)) for text in heard])
    assert rate == pytest.approx(wrong, abs=0.02)
    assert np.mean([text == " ".join(words_of(text)) for text in heard]) == pytest.approx(plain, abs=0.08)


def test_draws_differ_and_can_be_repeated() -> None:
    first, second, again = (_heard(KINDS["word errors"], 20, draw) for draw in (0, 1, 0))
    assert first == again
    assert first != second
