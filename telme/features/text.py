"""Dialogue turns -> token ids: the paper's prompt `<s1> … <s2> … </s> Now <s2> feels <mask>`.

The turn asked about is the last one. The hidden state of the final mask token becomes the utterance's vector.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from telme.bundle import BundleError, TextSpec

Ids = npt.NDArray[np.int64]

# cp1252 puts quotes and dashes where Latin-1 has control characters; corpora that were decoded as the wrong one
# of the two hold those controls (27 % of MELD's utterances, as the paper's authors distribute them).
_CP1252 = {code: bytes([code]).decode("cp1252", "replace") for code in range(0x80, 0xA0)}
# Speech recognisers write plain characters, so the model sees nothing else.
_PLAIN = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\N{REPLACEMENT CHARACTER}": ""}
)
# Not in "3.5", "don't" or "mother-in-law".
_STOPS = re.compile(r"""[.,;:"-]+(?=\s|$)|(?<!\S)[.,;:"-]+""")


@dataclass(frozen=True)
class Turn:
    """One utterance's text in a dialogue.

    speaker: any name; only equality matters.
    heard: a speech recogniser wrote it, nobody who knew what was meant.
    """

    speaker: str
    text: str
    heard: bool = False


def clean(text: str) -> str:
    """Plain quotes and dashes, single spaces, and nothing that is no valid Unicode."""
    valid = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate cannot be tokenised
    return " ".join(valid.translate(_CP1252).translate(_PLAIN).split())


def without_stops(text: str) -> str:
    """Without the punctuation that is guessed from words: what asks (?) or exclaims (!) stays, and so do figures."""
    return " ".join(_STOPS.sub(" ", text).split())


class Prompter:
    """Makes the teacher's prompts. Safe to share between threads."""

    def __init__(self, spec: TextSpec, tokenizer: Tokenizer) -> None:
        """Raises BundleError when the tokenizer lacks one of the specification's tokens, or a prompt has no room."""
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())  # the caller's own keeps its settings
        self._tokenizer.encode_special_tokens = True  # "<mask>" in what somebody says is four ordinary pieces
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._speakers = [self._special(token) for token in spec.speaker_tokens]
        self._pad = self._special(spec.pad_token)
        self._before = [self._special(spec.separator_token), *self._ids("Now")]
        self._after = [*self._ids("feels"), self._special(spec.mask_token)]
        self._stops = spec.heard == "as_written"
        self._room = spec.max_tokens - len(self._before) - 1 - len(self._after)  # for the dialogue itself
        if self._room < 1:
            raise BundleError(f"A prompt of {spec.max_tokens} tokens has no room for a turn; raise text.max_tokens.")

    def encode(self, turns: Sequence[Turn]) -> Ids:
        """Prompt for the last of `turns`: (L,), L at most the specification's max_tokens.

        Whole turns are dropped from the front until the rest fits; of a last turn that is too long by itself,
        the end is kept.
        """
        if not turns:
            raise ValueError("a prompt needs at least one turn")
        room = self._room
        kept: list[tuple[str, list[int]]] = []
        for turn in reversed(turns):
            ids = self._ids(turn.text if self._stops or not turn.heard else without_stops(turn.text))
            if not kept:
                ids = ids[max(0, len(ids) - (room - 1)) :]
            room -= 1 + len(ids)
            if room < 0:
                break
            kept.append((turn.speaker, ids))
        kept.reverse()
        speakers = self._numbered([speaker for speaker, _ in kept])
        dialogue = [token for speaker, (_, ids) in zip(speakers, kept, strict=True) for token in (speaker, *ids)]
        return np.array([*dialogue, *self._before, speakers[-1], *self._after], np.int64)

    def batch(self, encoded: Sequence[Ids]) -> tuple[Ids, Ids]:
        """Prompts side by side, padded on the right: ids (B, L) and attention mask (B, L), 1 where there is a token."""
        length = max(len(ids) for ids in encoded)
        input_ids = np.full((len(encoded), length), self._pad, np.int64)
        attention_mask = np.zeros((len(encoded), length), np.int64)
        for row, ids in enumerate(encoded):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        return input_ids, attention_mask

    def _numbered(self, names: Sequence[str]) -> list[int]:
        """Each turn's speaker token, by first appearance; a speaker too many takes the least recently heard's."""
        heard: OrderedDict[str, int] = OrderedDict()  # least recently heard first
        tokens = []
        for name in names:
            if name not in heard:
                full = len(heard) == len(self._speakers)
                heard[name] = heard.popitem(last=False)[1] if full else self._speakers[len(heard)]
            heard.move_to_end(name)
            tokens.append(heard[name])
        return tokens

    def _ids(self, text: str) -> list[int]:
        """Word pieces of cleaned text. The space in front makes byte-level tokenizers see a word, not its inside."""
        ids: list[int] = self._tokenizer.encode(" " + clean(text), add_special_tokens=False).ids
        return ids

    def _special(self, token: str) -> int:
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise BundleError(f"The tokenizer has no token {token}; export the bundle again with telme-export.")
        return found
