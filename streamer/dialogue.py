"""The rolling context that the text teacher reads, and what others may add to it."""

import unicodedata
from collections import deque
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from streamer import settings
from telme.features.text import Turn

PAYLOAD_BYTES_MAX = 16 * 1024


class Dialogue:
    """The last turns of the conversation.

    Time is passed in, in seconds of a clock that does not run backwards. Not for use by several threads.
    """

    def __init__(self, bounds: settings.Dialogue) -> None:
        self._bounds = bounds
        self._turns: deque[Turn] = deque(maxlen=bounds.turns_max)
        self._last_s = 0.0

    def add(self, speaker: str, text: str, now_s: float) -> None:
        """Append a turn that ended at `now_s`. An empty text adds nothing."""
        self._forget_after_silence(now_s)
        turn = self._turn(speaker, text)
        if turn.text:
            self._turns.append(turn)
            self._last_s = max(self._last_s, now_s)

    def context(self, speaker: str, text: str, now_s: float) -> tuple[Turn, ...]:
        """What the teacher reads to judge `text`, said at `now_s`: the turns before it and, last, itself.

        At most `turns_max` turns. The utterance is not added.
        """
        self._forget_after_silence(now_s)
        before = list(self._turns)[-(self._bounds.turns_max - 1) :] if self._bounds.turns_max > 1 else []
        return (*before, self._turn(speaker, text))

    def reset(self) -> None:
        """Begin a new dialogue."""
        self._turns.clear()

    def __len__(self) -> int:
        return len(self._turns)

    def _forget_after_silence(self, now_s: float) -> None:
        if now_s - self._last_s >= self._bounds.reset_after_s:
            self.reset()

    def _turn(self, speaker: str, text: str) -> Turn:
        """The end of a long text matters most: that is where the speaker has arrived."""
        return Turn(speaker, _printable(text)[-self._bounds.text_max_chars :].strip())


class DialogueAdd(BaseModel):
    """What arrives on `telme/<node>/dialogue/add`: a turn that no source hears, as what the robot said itself.

    speaker: None is the robot.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    speaker: settings.Name | None = None

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read a payload: a JSON object with these fields, or else plain text in UTF-8.

        Raises ValueError with one sentence that says what is wrong with it.
        """
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise ValueError(f"the payload has {len(payload)} bytes, more than {PAYLOAD_BYTES_MAX}")
        try:
            text = payload.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"the payload is not UTF-8 at byte {error.start}") from None
        try:
            if text.lstrip().startswith("{"):
                return cls.model_validate_json(text)
            return cls(text=text)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(step) for step in first["loc"]) or "payload"
            raise ValueError(f"the {where} is not valid: {first['msg']}") from None


def _printable(text: str) -> str:
    """The text without control characters; line breaks and tabs become spaces."""
    spaced = " ".join(text.split())
    return "".join(character for character in spaced if unicodedata.category(character) not in ("Cc", "Cs"))
