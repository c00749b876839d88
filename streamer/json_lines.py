"""Events as JSON lines, for programs that read a pipe."""

import logging
import os
import queue
import threading
from types import TracebackType
from typing import Self, TextIO

from streamer.events import EmotionEvent

logger = logging.getLogger(__name__)

WAITING_MAX = 1000
LAST_LINES_S = 5.0


class OutputError(Exception):
    """Events that cannot be written; the message says why."""


class JsonLines:
    """Writes each event as one line. `with` starts the thread that writes: a reader may be slow, the pipeline not.

    When `WAITING_MAX` lines wait, the newest is dropped and counted. Lines go to the file's descriptor itself:
    what a full disk refuses must not stay in a buffer and be refused again when the program ends.
    """

    def __init__(self, file: TextIO) -> None:
        self.dropped = 0
        self._descriptor = file.fileno()
        self._name = file.name
        self._waiting: queue.Queue[bytes | None] = queue.Queue(WAITING_MAX)
        self._error: OSError | None = None
        self._writer = threading.Thread(target=self._write, name="json-lines", daemon=True)

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the last lines. Raises OutputError when lines could not be written."""
        try:
            self._waiting.put(None, timeout=LAST_LINES_S)
            self._writer.join(LAST_LINES_S)
        except queue.Full:
            pass  # the reader has stopped; the count says what it missed
        if self._writer.is_alive() or self.dropped:
            missed = self.dropped + self._waiting.qsize()
            logger.warning("the reader of the JSON lines did not take all of them", extra={"missed": missed})
        if kind is None:
            self._check()

    def publish(self, event: EmotionEvent) -> None:
        """Returns at once. Raises OutputError once a line could not be written."""
        self._check()
        try:
            self._waiting.put_nowait(f"{event.to_json()}\n".encode())
        except queue.Full:
            self.dropped += 1

    def _check(self) -> None:
        if self._error is not None:
            raise OutputError(f"cannot write events to {self._name}: {self._error.strerror}.") from self._error

    def _write(self) -> None:
        try:
            while (line := self._waiting.get()) is not None:
                while line:
                    line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            self._error = error
