"""The threads in which models compute, so that the event loop only passes things on."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

Result = TypeVar("Result")


@dataclass
class Workers:
    """One thread for each kind of model, so that each runs alone and in order."""

    faces: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "faces"))
    speech: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "speech"))
    voices: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "voices"))
    encoders: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "encoders"))

    def shut_down(self) -> None:
        """Returns at once; what has not begun is given up."""
        for worker in (self.faces, self.speech, self.voices, self.encoders):
            worker.shutdown(wait=False, cancel_futures=True)


async def run_in(worker: Executor, function: Callable[..., Result], *arguments: object) -> Result:
    """What the function returns, or raises, in the worker's thread."""
    return await asyncio.get_running_loop().run_in_executor(worker, function, *arguments)
