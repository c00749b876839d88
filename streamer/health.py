"""Whether the program does its work, and whether starting it again would help."""

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from streamer import settings

log = logging.getLogger(__name__)

State = Literal["starting", "ok", "degraded", "failed"]


@dataclass(frozen=True)
class Vitals:
    """What tells of one stream whether it goes on.

    heard_s: end of what was heard, in seconds of the stream clock; None for a file, which waits for its reader.
    finished: utterances and drafts that recognition is done with, well or badly.
    waits: whether recognition has others to do.
    blind: whether its pictures have ended in an error.
    patience_s: for which its sound may stay away, and then all of it come.
    """

    stream: str
    heard_s: float | None
    finished: int
    waits: bool
    blind: bool = False
    patience_s: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """State, and why it is not ok.

    degraded: the work goes on without something. A device, the broker and the disk are looked for.
    failed: what only a restart can mend. Neither `starting` nor `failed` is live.
    """

    state: State
    reasons: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        return self.state in ("ok", "degraded")

    def as_json(self) -> dict[str, Any]:
        return {"live": self.live, "state": self.state, "reasons": list(self.reasons)}


class Health:
    """Looks at what should go on, each time it is asked, and remembers since when it does not.

    It must be asked every second or so to be precise, and from one thread only.
    stall_s: a live source that is silent for so long is away.
    clock: monotonic seconds.
    """

    def __init__(self, limits: settings.Health, stall_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._stall_s = stall_s
        self._clock = clock
        self._vitals: Callable[[], Sequence[Vitals]] | None = None
        self._lacks: Callable[[], Sequence[str]] = tuple
        self._seen: dict[Hashable, tuple[object, float]] = {}
        self._last: State = "starting"

    def reconfigure(self, limits: settings.Health) -> None:
        """Go on with other limits."""
        self._limits = limits

    def begin(self, vitals: Callable[[], Sequence[Vitals]], lacks: Callable[[], Sequence[str]]) -> None:
        """From here on the streams run.

        vitals: of every stream, now.
        lacks: what else is missing now, and is looked for: a sentence each.
        """
        self._vitals = vitals
        self._lacks = lacks

    def check(self) -> Verdict:
        """The verdict at this moment. A change of state is logged."""
        verdict = self._judge()
        if verdict.state != self._last:
            level = logging.INFO if verdict.state == "ok" else logging.WARNING
            log.log(level, "health: %s", "; ".join((verdict.state, *verdict.reasons)))
            self._last = verdict.state
        return verdict

    def _judge(self) -> Verdict:
        if self._vitals is None:
            return Verdict("starting", ("models are loaded and devices opened",))
        fatal: list[str] = []
        lacking: list[str] = []
        for vitals in self._vitals():
            worked_s = self._same_for_s((vitals.stream, "work"), (vitals.finished, vitals.waits))
            if vitals.waits and worked_s > self._limits.recognition_s:
                fatal.append(f"recognition of {vitals.stream} has finished nothing for {worked_s:.0f} s")
            if vitals.blind:
                lacking.append(f"the pictures of {vitals.stream} have ended in an error, which the log tells")
            if vitals.heard_s is None:
                continue
            silent_s = self._same_for_s((vitals.stream, "sound"), vitals.heard_s)
            if silent_s > max(self._stall_s, vitals.patience_s):
                lost = self._limits.source_s is not None and silent_s > self._limits.source_s
                (fatal if lost else lacking).append(f"the source of {vitals.stream} has been away for {silent_s:.0f} s")
        lacking.extend(self._lacks())
        if fatal:
            return Verdict("failed", (*fatal, *lacking))
        return Verdict("degraded", tuple(lacking)) if lacking else Verdict("ok")

    def _same_for_s(self, what: Hashable, value: object) -> float:
        """Seconds since a value was first seen as it is."""
        now = self._clock()
        before, since = self._seen.get(what, (None, now))
        if before != value:
            self._seen[what] = value, since = value, now
        return now - since
