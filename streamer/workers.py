"""The threads in which models compute, so that the event loop only passes things on."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Workers:
    """One thread for each kind of model, so that each runs alone and in order.

    hearing: voice detectors, of all streams in turns.
    Transcription, which takes longest and knows no batches, has one for each stream that is worked for at a time.
    """

    def __init__(self, at_once: int = 1) -> None:
        self.hearing = ThreadPoolExecutor(1, "hearing")
        self.faces = ThreadPoolExecutor(1, "faces")
        self.speech = ThreadPoolExecutor(at_once, "speech")
        self.voices = ThreadPoolExecutor(1, "voices")
        self.encoders = ThreadPoolExecutor(1, "encoders")

    def shut_down(self) -> None:
        """Returns at once; what has not begun is given up."""
        for worker in (self.hearing, self.faces, self.speech, self.voices, self.encoders):
            worker.shutdown(wait=False, cancel_futures=True)


async def run_in(worker: Executor, function: Callable[..., Result], *arguments: object) -> Result:
    """What the function returns, or raises, in the worker's thread."""
    return await asyncio.get_running_loop().run_in_executor(worker, function, *arguments)
