"""The end of a process in which threads may still compute."""

import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn


def end_process(status: int) -> NoReturn:
    """End at once with an exit code, after everything that is logged or printed has been written.

    A thread that computes or downloads cannot be stopped, and a regular exit waits for it.
    """
    logging.shutdown()
    for output in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            output.flush()
    os._exit(status)
