"""What the training loop's optimiser is given."""

from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from telme.training.config import Schedule
from telme.training.loop import Task, fit


def gradients(task: Task, accumulation: int) -> list[list[Tensor]]:
    """Those of all parameters, uncut, in each step of an epoch."""
    found: list[list[Tensor]] = []

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        found.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])

    schedule = Schedule(epochs=1, batch=1, learning_rate=1e-6, accumulation=accumulation, clip_norm=1e9)
    hook = register_optimizer_step_pre_hook(keep)
    try:
        with TemporaryDirectory() as folder:
            fit(task, schedule, Path(folder), seed=1)
    finally:
        hook.remove()
    return found
