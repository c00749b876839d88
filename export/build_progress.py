"""How far TensorRT is with building an engine: a bar in a terminal, log lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, TaskID

from telme.progress import bar, log_tenths

if TYPE_CHECKING:
    import tensorrt_rtx as trt


class Watch:
    """Follows the outermost phase; its note names the phase at work."""

    def __init__(self, progress: Progress, row: TaskID) -> None:
        self._progress = progress
        self._row = row
        self._outermost: str | None = None
        self.interrupted = False

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        if not parent:
            self._outermost = phase
            self._progress.reset(self._row, total=steps, note="")
        self._progress.update(self._row, note=phase.lower())

    def step(self, phase: str) -> bool:
        """Whether to go on: not after Ctrl-C, which cannot pass through TensorRT as an exception."""
        try:
            if phase == self._outermost:
                self._progress.advance(self._row)
                if not self._progress.console.is_terminal:
                    log_tenths(self._progress.tasks[self._progress.task_ids.index(self._row)], 1, "steps")
        except KeyboardInterrupt:
            self.interrupted = True
        return not self.interrupted


@contextmanager
def watched(library: ModuleType, description: str) -> Iterator["trt.IProgressMonitor"]:
    """A monitor to build with. Raises KeyboardInterrupt at the end where it stopped the build."""
    with bar() as progress:
        watch = Watch(progress, progress.add_task(description, total=None, note=""))
        yield _monitor(library, watch)
    if watch.interrupted:
        raise KeyboardInterrupt


def _monitor(library: ModuleType, watch: Watch) -> "trt.IProgressMonitor":
    base: Any = library.IProgressMonitor  # which class it is depends on the flavour

    class Monitor(base):  # type: ignore[misc]  # the base comes from whichever library is loaded
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            """Nothing is left to show of it."""

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.step(phase_name)

    return Monitor()
