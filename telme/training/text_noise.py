"""Makes transcripts look as a speech recogniser would have written them, mistakes included.

The live system reads transcripts, the corpora hold what was really said: a teacher that only saw the latter
loses much of its score on the former.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from telme.features.text import Turn
from telme.training.config import TextNoise

# Apostrophes belong to their words; recognisers without punctuation write "don't" all the same.
_PUNCTUATION = re.compile(r"[^\w\s']+")


class Recogniser:
    """Disturbs dialogues: letters become small, punctuation goes, words are lost or mistaken for similar ones."""

    def __init__(self, noise: TextNoise, texts: Iterable[str]) -> None:
        """texts: where the wrong words come from; frequent ones are heard more often."""
        self._noise = noise
        self._alike: dict[str, list[str]] = {}
        for text in texts:
            for word in _plain(text):
                self._alike.setdefault(_onset(word), []).append(word)

    def disturb(self, turns: Sequence[Turn], random: np.random.Generator) -> Sequence[Turn]:
        """`turns`, or with the configured probability what a recogniser might have made of them."""
        if random.random() >= self._noise.share:
            return turns
        return [Turn(turn.speaker, self._mishear(turn.text, random)) for turn in turns]

    def _mishear(self, text: str, random: np.random.Generator) -> str:
        heard = []
        words = _plain(text)
        for word, chance in zip(words, random.random(len(words)), strict=True):
            if chance < self._noise.deletion:
                continue
            if chance < self._noise.deletion + self._noise.substitution:
                alike = self._alike.get(_onset(word), [word])
                heard.append(alike[random.integers(len(alike))])
            else:
                heard.append(word)
        return " ".join(heard)


def _plain(text: str) -> list[str]:
    return _PUNCTUATION.sub(" ", text.lower()).split()


def _onset(word: str) -> str:
    """Words are mistaken for each other when they begin alike."""
    return word[:2]
