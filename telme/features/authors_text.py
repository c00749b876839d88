"""Dialogue turns -> token ids as the TelME authors' code makes them, for offline evaluation of their weights.

The whole prompt is one string, `<s1> … <s2> … </s> Now <s2> feels`, read by the slow tokenizer of transformers 4.27,
of which the last pieces are kept.
"""

import re
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from telme.bundle import TextSpec
from telme.features.text import Ids, Prompter, Turn


def prompter(spec: TextSpec, tokenizer: Tokenizer) -> Prompter:
    """What makes prompts as the specification says. Raises BundleError as Prompter does."""
    return AuthorsPrompter(spec, tokenizer) if spec.prompt == "string" else Prompter(spec, tokenizer)


class AuthorsPrompter(Prompter):
    """Makes prompts as the authors' code does, from text as it stands, control characters included."""

    def __init__(self, spec: TextSpec, tokenizer: Tokenizer) -> None:
        super().__init__(spec, tokenizer)
        self._pieces_max = spec.max_tokens - 1
        self._separator = spec.separator_token
        self._mask = spec.mask_token
        self._speaker_tokens = frozenset(spec.speaker_tokens)
        # They count as special wherever they stand, in what somebody says too.
        known = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        self._specials = re.compile("(" + "|".join(map(re.escape, known)) + ")")

    def encode(self, turns: Sequence[Turn], numbers: Sequence[int] | None = None) -> Ids:
        """Prompt for the last of `turns`: (L,), L at most the specification's max_tokens; its front may be cut off.

        numbers: each turn's speaker, from 1; None: by first appearance among the turns. There is no limit to them,
            but a number without a token of its own falls into ordinary pieces.
        """
        if not turns:
            raise ValueError("a prompt needs at least one turn")
        names = list(dict.fromkeys(turn.speaker for turn in turns))
        numbers = numbers or [names.index(turn.speaker) + 1 for turn in turns]
        dialogue = " ".join(f"<s{number}> {turn.text}" for number, turn in zip(numbers, turns, strict=True)).strip()
        ids = self.tokenized(f"{dialogue} {self._separator} Now <s{numbers[-1]}> feels")
        return np.array([*ids[-self._pieces_max :], self._special(self._mask)], np.int64)

    def tokenized(self, text: str) -> list[int]:
        """Ids of a string, as `tokenize` of transformers' slow tokenizers gave them up to version 4.33.

        Special tokens are cut out first. Speaker tokens, registered as plain strings, swallow the white space on both
        sides, and the mask token that before it; the others leave it.
        """
        parts = self._specials.split(text)  # text at even places, special tokens at odd ones
        ids: list[int] = []
        for place, part in enumerate(parts):
            if place % 2:
                ids.append(self._special(part))
                continue
            before = parts[place - 1] if place else ""
            after = parts[place + 1] if place + 1 < len(parts) else ""
            if before in self._speaker_tokens:
                part = part.lstrip()
            if after in self._speaker_tokens or after == self._mask:
                part = part.rstrip()
            ids += self._tokenizer.encode(part, add_special_tokens=False).ids
        return ids


def authors_numbers(dialogues: Sequence[Sequence[str]]) -> list[list[int]]:
    """Speaker numbers, from 1, as the authors' csv reader counts them through successive dialogues.

    dialogues: the speaker of each turn, in the csv's order.
    The first turn of a dialogue is looked up among the speakers of the one before, who are forgotten only then: it
    often gets a number too high, and whoever spoke it is counted anew at the next turn.
    """
    numbers: list[list[int]] = []
    heard: list[str] = []
    for dialogue in dialogues:
        counted = []
        for turn, speaker in enumerate(dialogue):
            if speaker not in heard:
                heard.append(speaker)
            counted.append(heard.index(speaker) + 1)
            if turn == 0 and numbers:
                heard = []
        numbers.append(counted)
    return numbers
