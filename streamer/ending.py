"""The end of a process in which threads may still compute."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

_ENDING = (signal.SIGINT, signal.SIGTERM)


def end_process(status: int) -> NoReturn:
    """End at once with an exit code, after everything that is logged or printed has been written.

    A thread that computes or downloads cannot be stopped, and a regular exit waits for it.
    """
    logging.shutdown()
    for output in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            output.flush()
    os._exit(status)


def end_by_signal() -> None:
    """From here on SIGINT and SIGTERM end the process at once: what is left, such as waiting for threads, can hang."""
    for number in _ENDING:
        signal.signal(number, lambda *_: end_process(130))


@contextmanager
def signals_given_back() -> Iterator[None]:
    """Has the signals that a stream obeys mean afterwards what they meant before."""
    before = {number: signal.getsignal(number) for number in (*_ENDING, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # else it was not Python that set it, nor can Python set it again
                signal.signal(number, handler)
