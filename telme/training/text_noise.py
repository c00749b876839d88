"""Makes transcripts look as a speech recogniser would have written them, mistakes included.

The live system reads transcripts, the corpora hold what was really said: a teacher that only saw the latter
loses much of its score on the former.
"""

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

import numpy as np

from telme.features.text import Turn
from telme.training.config import TextNoise

# Apostrophes belong to their words; recognisers without punctuation write "don't" all the same.
_PUNCTUATION = re.compile(r"[^\w\s']+")
_WORD = re.compile(r"[\w']+")
_DRAWS = 8  # a frequent word would often be mistaken for itself

ASR_ERRORS = TextNoise(share=1.0, deletion=0.06, substitution=0.11, insertion=0.03, unpunctuated=0.5)
"""What a teacher is tested with: a word error rate of 20 %, and every second dialogue without punctuation."""


class Recogniser:
    """Disturbs dialogues: words are lost, mistaken for similar ones or made up; punctuation and capitals may go."""

    def __init__(self, noise: TextNoise, texts: Iterable[str]) -> None:
        """texts: where wrong words come from; frequent ones are heard more often."""
        self._noise = noise
        self._words = [word for text in texts for word in _plain(text)]
        self._alike: dict[str, list[str]] = {}
        for word in self._words:
            self._alike.setdefault(_onset(word), []).append(word)

    def disturb(self, turns: Sequence[Turn], random: np.random.Generator) -> Sequence[Turn]:
        """`turns`, or with the configured probability what a recogniser might have made of them.

        One recogniser writes a whole dialogue: all its turns lose their punctuation, or none does.
        """
        if random.random() >= self._noise.share:
            return turns
        plain = random.random() < self._noise.unpunctuated
        return [Turn(turn.speaker, self._mishear(turn.text, plain, random)) for turn in turns]

    def hear(self, turns: Sequence[Turn], random: np.random.Generator) -> tuple[Sequence[Turn], float]:
        """As `disturb`, and how sure such a recogniser would be of the last turn, in [0, 1].

        It is taken to know its mistakes: its confidence is the similarity of the words said and heard (difflib's
        ratio, 1 without a mistake). Real ones know them less well.
        """
        heard = self.disturb(turns, random)
        said, understood = _plain(turns[-1].text), _plain(heard[-1].text)
        return heard, SequenceMatcher(None, said, understood, autojunk=False).ratio()

    def _mishear(self, text: str, plain: bool, random: np.random.Generator) -> str:
        noise = self._noise
        written = _plain(text) if plain else text.split()
        heard = []
        for piece, chance in zip(written, random.random(len(written)), strict=True):
            if chance < noise.deletion:
                continue
            if chance < noise.deletion + noise.substitution:
                heard.append(self._mistake(piece, random))
            else:
                heard.append(piece)
            if self._words and random.random() < noise.insertion:
                heard.append(self._words[random.integers(len(self._words))])
        return " ".join(heard)

    def _mistake(self, piece: str, random: np.random.Generator) -> str:
        """The piece with its word replaced by a similar one; its punctuation stays."""
        found = _WORD.search(piece)
        if found is None:
            return piece
        word = found.group().lower()
        alike = self._alike.get(_onset(word), [word])
        drawn = (alike[random.integers(len(alike))] for _ in range(_DRAWS))
        other = next((candidate for candidate in drawn if candidate != word), word)
        return piece[: found.start()] + other + piece[found.end() :]


def _plain(text: str) -> list[str]:
    return _PUNCTUATION.sub(" ", text.lower()).split()


def _onset(word: str) -> str:
    """Words are mistaken for each other when they begin alike."""
    return word[:2]
