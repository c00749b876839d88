"""The rolling context that the text teacher reads."""

import unicodedata
from collections import deque

from streamer import settings
from telme.features.text import Turn


class Dialogue:
    """The last turns of the conversation.

    Time is passed in, in seconds of a clock that does not run backwards. Not for use by several threads.
    """

    def __init__(self, bounds: settings.Dialogue) -> None:
        self._bounds = bounds
        self._turns: deque[Turn] = deque(maxlen=bounds.turns_max)
        self._last_s = 0.0

    def add(self, speaker: str, text: str, now_s: float, *, heard: bool = False) -> None:
        """Append a turn that ended at `now_s`. An empty text adds nothing.

        heard: a speech recogniser wrote it.
        """
        self._forget_after_silence(now_s)
        turn = self._turn(speaker, text, heard)
        if turn.text:
            self._turns.append(turn)
            self._last_s = max(self._last_s, now_s)

    def context(self, speaker: str, text: str, now_s: float) -> tuple[Turn, ...]:
        """What the teacher reads to judge `text`, heard at `now_s`: the turns before it and, last, itself.

        At most `turns_max` turns. The utterance is not added.
        """
        self._forget_after_silence(now_s)
        before = list(self._turns)[-(self._bounds.turns_max - 1) :] if self._bounds.turns_max > 1 else []
        return (*before, self._turn(speaker, text, heard=True))

    def reconfigure(self, bounds: settings.Dialogue) -> None:
        """Go on with other bounds; the oldest turns give way where there are too many now."""
        self._bounds = bounds
        self._turns = deque(self._turns, maxlen=bounds.turns_max)

    def reset(self) -> None:
        """Begin a new dialogue."""
        self._turns.clear()

    def __len__(self) -> int:
        return len(self._turns)

    def _forget_after_silence(self, now_s: float) -> None:
        if now_s - self._last_s >= self._bounds.reset_after_s:
            self.reset()

    def _turn(self, speaker: str, text: str, heard: bool) -> Turn:
        """The end of a long text matters most: that is where the speaker has arrived."""
        return Turn(speaker, _printable(text)[-self._bounds.text_max_chars :].strip(), heard)


def _printable(text: str) -> str:
    """The text without control characters; line breaks and tabs become spaces."""
    spaced = " ".join(text.split())
    return "".join(character for character in spaced if unicodedata.category(character) not in ("Cc", "Cs"))
