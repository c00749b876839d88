"""Dialogue turns -> token ids: the prompt `<s1> … </s> Now <s1> feels <mask>`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One utterance's text in a dialogue.

    speaker: any name; only equality matters.
    """

    speaker: str
    text: str
