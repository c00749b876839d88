"""Makes transcripts look as a speech recogniser would have written them, mistakes included.

The live system reads transcripts, the corpora hold what was really said: a teacher that only saw the latter
loses much of its score on the former.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

import numpy as np

from telme.features.text import Turn
from telme.training.config import TextNoise

# Apostrophes belong to their words; recognisers without punctuation write "don't" all the same.
_PUNCTUATION = re.compile(r"[^\w\s']+")
_WORD = re.compile(r"[\w']+")

ASR_ERRORS = TextNoise(share=1.0, deletion=0.06, substitution=0.11, insertion=0.03, unpunctuated=0.5)
"""What a teacher is tested with: a word error rate of 20 %, and every second prompt without punctuation."""


class _Words:
    """Words as often as they were said."""

    def __init__(self, said: Iterable[str]) -> None:
        self._sorted = sorted(said)  # so that all of one word stand together

    def other_than(self, word: str, random: np.random.Generator) -> str | None:
        """Any but `word`, a frequent one more likely; None where there is no other."""
        start, end = bisect_left(self._sorted, word), bisect_right(self._sorted, word)
        others = len(self._sorted) - (end - start)
        if not others:
            return None
        place = int(random.integers(others))
        return self._sorted[place if place < start else place + end - start]


class Recogniser:
    """Disturbs prompts: words are lost, mistaken for similar ones or made up; punctuation and capitals may go."""

    def __init__(self, noise: TextNoise, texts: Iterable[str]) -> None:
        """texts: where wrong words come from; frequent ones are heard more often."""
        self._noise = noise
        self._words = [word for text in texts for word in words_of(text)]
        alike: dict[str, list[str]] = {}
        for word in self._words:
            alike.setdefault(_onset(word), []).append(word)
        self._alike = {onset: _Words(words) for onset, words in alike.items()}
        self._any = _Words(self._words)

    def disturb(self, turns: Sequence[Turn], random: np.random.Generator) -> Sequence[Turn]:
        """The turns of a prompt, or with the configured probability what a recogniser might have made of them.

        All turns of the prompt lose their punctuation, or none does. Every prompt is misheard afresh, also where it
        shares turns with another of the same dialogue.
        """
        if random.random() >= self._noise.share:
            return turns
        plain = random.random() < self._noise.unpunctuated
        return [Turn(turn.speaker, self._mishear(turn.text, plain, random), heard=True) for turn in turns]

    def hear(self, turns: Sequence[Turn], random: np.random.Generator) -> tuple[Sequence[Turn], float]:
        """As `disturb`, and how sure such a recogniser would be of the last turn, in [0, 1].

        It is taken to know its mistakes: its confidence is the similarity of the words said and heard (difflib's
        ratio, 1 without a mistake). Real ones know them less well.
        """
        heard = self.disturb(turns, random)
        said, understood = words_of(turns[-1].text), words_of(heard[-1].text)
        return heard, SequenceMatcher(None, said, understood, autojunk=False).ratio()

    def _mishear(self, text: str, plain: bool, random: np.random.Generator) -> str:
        noise = self._noise
        written = words_of(text) if plain else text.split()
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
        """The piece with another word for its own, a similar one where there is any; its punctuation stays."""
        found = _WORD.search(piece)
        if found is None:
            return piece
        word = found.group().lower()
        alike = self._alike.get(_onset(word), self._any)
        other = alike.other_than(word, random) or self._any.other_than(word, random) or word
        return piece[: found.start()] + other + piece[found.end() :]


def words_of(text: str) -> list[str]:
    """Without case and punctuation."""
    return _PUNCTUATION.sub(" ", text.lower()).split()


def _onset(word: str) -> str:
    """Words are mistaken for each other when they begin alike."""
    return word[:2]
