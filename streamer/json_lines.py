"""Events as JSON lines, for programs that read a pipe."""

import logging
import os
from types import TracebackType
from typing import Self, TextIO

from streamer.background_writer import BackgroundWriter
from streamer.events import EmotionEvent

log = logging.getLogger(__name__)

WAITING_MAX = 1000
LAST_LINES_S = 5.0


class OutputError(Exception):
    """Events that cannot be written; the message says why."""


class JsonLines:
    """Writes each event as one line. When `WAITING_MAX` lines wait, the newest is dropped and counted.

    provisional: whether provisional events are written, too.
    Lines go to the file's descriptor itself: what a full disk refuses must not stay in a buffer and be refused
    again when the program ends.
    """

    def __init__(self, file: TextIO, *, provisional: bool = False) -> None:
        self._provisional = provisional
        self._descriptor = file.fileno()
        self._name = file.name
        self._writer = BackgroundWriter(self._write, name=self._name, size=WAITING_MAX, last_s=LAST_LINES_S)

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the last lines. Raises OutputError when lines could not be written."""
        self._writer.__exit__(kind, error, trace)
        if kind is None:
            self._check()
        if self._writer.missed:
            missed = {"missed": self._writer.missed}
            log.warning("the reader of the JSON lines did not take all of them", extra=missed)

    def publish(self, event: EmotionEvent) -> None:
        """Returns at once. Raises OutputError once a line could not be written."""
        self._check()
        if event.phase == "provisional" and not self._provisional:
            return
        self._writer.put(f"{event.to_json()}\n".encode())

    def _check(self) -> None:
        error = self._writer.error
        if error is not None:
            raise OutputError(f"cannot write events to {self._name}: {error.strerror}.") from error

    def _write(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._descriptor, line) :]
