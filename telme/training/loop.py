"""The training loop that all parts share: optimise, evaluate, keep the best or the last, survive a kill.

Every epoch starts from its own random seed, and the whole state is one file that is replaced atomically after
each epoch. So a run that was killed continues from its last finished epoch and ends in the same weights.

The batches of one step count as a single large one: where a term of the loss is a mean over items, the step's is the
mean over all of its items, however they fall into batches.

Where several processes train together, each takes its share of an epoch's batches and the gradients of all make one
step: P processes do what one does with P times the `accumulation`, each with random numbers of its own.
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate.utils import send_to_device, set_seed
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from telme.progress import bar, log_tenths
from telme.training.config import Keep, Schedule
from telme.training.errors import TrainingError
from telme.training.inputs import Inputs
from telme.training.processes import together

log = logging.getLogger(__name__)

KEPT = "kept.safetensors"
STATE = "state.safetensors"
SCORE = "score"


class Batches(Protocol):
    """One epoch's batches: a list, a DataLoader, or anything else that knows its length."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


@runtime_checkable
class Divisible(Protocol):
    """Batches that are made as they are asked for, so that of several processes each makes its own alone."""

    def share(self, number: int, count: int) -> Iterator[Any]:
        """Every `count`th batch, from `number` on; random changes are the process's own, the order is not."""
        ...


class Task(Protocol):
    """What is trained, on what, and how well it does.

    A batch is any nesting of tuples, lists, dicts and named tuples of tensors; the loop moves it to the device.
    """

    model: nn.Module

    def train_batches(self, epoch: int) -> Batches:
        """Batches of one epoch (from 0): the same for the same epoch, and equally many in every epoch."""
        ...

    def items(self, batch: Any) -> Mapping[str, int]:
        """Over how many of a batch's items each term of its loss is a mean."""
        ...

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """The terms of a batch's loss, which is their sum: means over its items, scalars, by their names in `items`.

        The model is in training mode. What compares the items of a batch compares those of one process.
        """
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Metrics on held-out data; the best epoch has the highest "score". The model is in evaluation mode."""
        ...


@runtime_checkable
class WithOwnGroups(Protocol):
    """A task that wants other learning rates for some of its parameters."""

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, Any]]:
        """Groups as torch optimisers take them; build each with `decay_groups`."""
        ...


class Epoch(BaseModel):
    """What one epoch came to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_loss: float
    metrics: dict[str, float]


class _State(BaseModel):
    """Everything about a run that is no tensor; `run` and `made_from` tell this run from any other."""

    model_config = ConfigDict(extra="forbid")

    run: str
    made_from: dict[str, str] = {}
    history: list[Epoch] = []

    def others(self, now: "_State") -> list[str]:
        """What this run has of its own, as a refusal says it; nothing where `now` is the same run."""
        names = sorted(self.made_from.keys() | now.made_from.keys())
        found = ["other settings or another number of processes"] if self.run != now.run else []
        if now.made_from and not self.made_from:
            return [*found, "no record of what it was made from"]
        return found + [
            f"{'other' if name in self.made_from else 'unknown'} {name}"
            for name in names
            if self.made_from.get(name) != now.made_from.get(name)
        ]

    def kept(self, keep: Keep) -> int:
        """The last epoch, or the first with the highest score."""
        if keep == "last":
            return len(self.history) - 1
        return max(range(len(self.history)), key=lambda epoch: self.history[epoch].metrics[SCORE])


def decay_groups(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Two optimiser groups: matrices decay; biases and the scales of norms, which are vectors, do not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "lr": learning_rate, "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "lr": learning_rate, "weight_decay": 0.0},
    ]


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate at optimiser step `step`, from 0: up over `warmup` steps, then down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / (steps - warmup))


def own_batches(batches: Batches, number: int, count: int) -> Iterator[Any]:
    """Those of process `number`, of `count`: every `count`th."""
    if count > 1 and isinstance(batches, Divisible):
        return batches.share(number, count)
    return islice(batches, number, None, count)


def fit(
    task: Task, schedule: Schedule, folder: Path, seed: int, settings: str = "", made_from: Inputs | None = None
) -> dict[str, float]:
    """Train `task.model` and leave the weights of the epoch that is kept in it; returns that epoch's metrics.

    folder: where state, kept weights and TensorBoard's scalars are written; a run found there is continued.
    settings: whatever else must be equal for a run to be continued, such as the stage's configuration.
    made_from: the same of what the task was made from.
    All processes that train together must call it alike, and see the same folder.
    Raises TrainingError when the folder holds another run, or the loss is no longer finite.
    """
    return _Fit(task, schedule, folder, seed, settings, made_from or {}).run()


class _Fit:
    def __init__(
        self, task: Task, schedule: Schedule, folder: Path, seed: int, settings: str, made_from: Inputs
    ) -> None:
        self._task = task
        self._schedule = schedule
        self._folder = folder
        self._seed = seed
        self._processes = together()
        self._device = self._processes.device
        task.model.to(self._device)
        groups = (
            task.parameter_groups(schedule)
            if isinstance(task, WithOwnGroups)
            else decay_groups(task.model.parameters(), schedule.learning_rate, schedule.weight_decay)
        )
        self._optimizer = torch.optim.AdamW(groups, fused=True)
        self._parameters = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        # Another number of processes would go on as another run; one alone has always left it out.
        several = [self._processes.count] if self._processes.count > 1 else []
        run = json.dumps([schedule.model_dump(), seed, settings, *several], sort_keys=True)
        self._state = _State(run=run, made_from=dict(made_from))
        self._batches_per_step = schedule.accumulation * self._processes.count
        self._batches = len(task.train_batches(0))
        if not self._batches:
            raise TrainingError(f"The training split makes no batch of {schedule.batch}; change schedule.batch.")
        self._steps_per_epoch = math.ceil(self._batches / self._batches_per_step)

    def run(self) -> dict[str, float]:
        self._folder.mkdir(parents=True, exist_ok=True)
        if (self._folder / STATE).exists():
            self._resume()
        self._agree()
        with _scalars(self._folder) if self._processes.main else nullcontext() as writer:
            for epoch in range(len(self._state.history), self._last_epoch()):
                set_seed(self._seed * 10_007 + epoch + 1_000_003 * self._processes.number)
                self._finish(self._train(epoch))
                if writer is not None:
                    done = self._state.history[epoch]
                    for name, value in {"train_loss": done.train_loss, **done.metrics}.items():
                        writer.add_scalar(name, value, epoch + 1)
        self._processes.wait()
        self._task.model.load_state_dict(load_file(self._folder / KEPT, device=str(self._device)))
        self._task.model.eval()
        return self._state.history[self._state.kept(self._schedule.keep)].metrics

    def _last_epoch(self) -> int:
        return min(self._schedule.epochs, self._schedule.stop_after or self._schedule.epochs)

    def _agree(self) -> None:
        """All processes begin with the same weights, or one of them says why they cannot."""
        found = f"{self._batches} batches an epoch and {len(self._state.history)} finished epochs"
        main = self._processes.told(found)
        if found != main:
            raise TrainingError(
                f"Process {self._processes.number} finds {found}, process 0 {main}; put the run folder and the corpora "
                "where all machines see the same."
            )
        self._processes.share_weights(self._task.model)

    def _train(self, epoch: int) -> float:
        """One epoch of optimisation; returns the mean loss per batch."""
        model = self._task.model.train()
        batches = self._task.train_batches(epoch)
        step = epoch * self._steps_per_epoch
        if math.ceil(len(batches) / self._batches_per_step) != self._steps_per_epoch:
            raise ValueError(f"epoch {epoch} has {len(batches)} batches, epoch 0 had another number")
        own = own_batches(batches, self._processes.number, self._processes.count)
        total = 0.0
        with bar() as progress:
            row = progress.add_task(f"epoch {epoch + 1}/{self._schedule.epochs}", total=len(batches), note="")
            for start in range(0, len(batches), self._batches_per_step):
                group = min(self._batches_per_step, len(batches) - start)
                self._set_rate(step)
                lost = self._gradients(list(islice(own, self._schedule.accumulation)))
                total += lost * group
                if not math.isfinite(total):
                    raise TrainingError(
                        f"The loss is {total} at step {step}; lower learning_rate "
                        f"({self._schedule.learning_rate:g}) or clip_norm ({self._schedule.clip_norm:g})."
                    )
                nn.utils.clip_grad_norm_(model.parameters(), self._schedule.clip_norm)
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
                step += 1
                progress.update(row, advance=group, note=f"loss {lost:.3f}")
                if not progress.console.is_terminal:
                    log_tenths(progress.tasks[row], group, "batches")
        return total / len(batches)

    def _gradients(self, own: Sequence[Any]) -> float:
        """Leave in the parameters the gradient of a step, as if its batches were one; returns its loss.

        own: the batches of this process, of which it may have none in an epoch's last step.
        """
        items = [self._task.items(batch) for batch in own]
        whole = self._processes.counted(items)
        lost = 0.0
        for batch, its in zip(own, items, strict=True):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._schedule.bf16):
                losses = self._task.losses(send_to_device(batch, self._device))
            # A term without items is zero.
            loss = torch.stack([term * (its[name] / max(whole[name], 1)) for name, term in losses.items()]).sum()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            lost += loss.item()
        self._processes.sum_gradients(self._parameters)
        return self._processes.total(lost)

    def _set_rate(self, step: int) -> None:
        steps = self._steps_per_epoch * self._schedule.epochs
        factor = rate_factor(step, steps, round(steps * self._schedule.warmup_ratio))
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor

    def _finish(self, train_loss: float) -> None:
        """Evaluate and write in the main process, of which the others learn the metrics."""
        self._task.model.eval()
        metrics: dict[str, float] = {}
        if self._processes.main:
            with torch.no_grad():
                metrics = dict(self._task.evaluate())
        metrics = self._processes.told(metrics)
        self._state.history.append(Epoch(train_loss=train_loss, metrics=metrics))
        epoch = len(self._state.history)
        shown = " ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        log.info("epoch %d/%d: train_loss %.4f %s", epoch, self._schedule.epochs, train_loss, shown)
        if self._processes.main:
            self._write()

    def _write(self) -> None:
        """Write the kept weights before the state: a kill between the two only repeats the epoch."""
        weights = {name: tensor.contiguous() for name, tensor in self._task.model.state_dict().items()}
        if self._state.kept(self._schedule.keep) == len(self._state.history) - 1:
            _replace(self._folder / KEPT, weights, {})
        moments = {
            f"optimizer.{index}.{name}": tensor.contiguous()
            for index, moment in self._optimizer.state_dict()["state"].items()
            for name, tensor in moment.items()
        }
        tensors = {f"model.{name}": tensor for name, tensor in weights.items()} | moments
        _replace(self._folder / STATE, tensors, {"state": self._state.model_dump_json()})

    def _resume(self) -> None:
        path = self._folder / STATE
        try:
            with safe_open(path, framework="pt", device=str(self._device)) as file:
                state = _State.model_validate_json(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise TrainingError(f"{path} is not a training state; remove it to start this part afresh.") from error
        if others := state.others(self._state):
            raise TrainingError(
                f"{path} belongs to a run with {' and '.join(others)}; remove {self._folder} to train this part anew, "
                "or give another output folder."
            )
        self._state = state
        weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        self._task.model.load_state_dict(weights)
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, moment = name.split(".")
                # The fused optimiser takes it that moments lie in memory as their parameter does: channels last, too.
                laid = torch.empty_like(parameters[int(index)]).copy_(tensor) if tensor.ndim else tensor
                moments.setdefault(int(index), {})[moment] = laid
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        log.info("continuing %s after epoch %d of %d", self._folder, len(state.history), self._schedule.epochs)


def _replace(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    partial = path.with_suffix(".partial")
    save_file(dict(tensors), partial, dict(metadata))
    partial.replace(path)


def _scalars(folder: Path) -> AbstractContextManager[Any]:
    """TensorBoard's writer, or nothing where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return nullcontext()
    return SummaryWriter(str(folder / "tensorboard"))
