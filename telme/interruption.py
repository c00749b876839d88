"""Ctrl-C while the modules of a command are loaded."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_end() -> Iterator[None]:
    """Within it Ctrl-C ends the process at once and without a traceback: nothing is there yet that needs an end.

    Shells see a process that the signal ended. Where the signal is ignored or handled already, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
