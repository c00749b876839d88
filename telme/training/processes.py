"""The processes that train together: one alone, or those that a launcher has started, on one machine or on several.

Weights, and with them every decision, are the same in all processes; each makes gradients of batches of its own. The
main one alone evaluates, writes and reports.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as distributed
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn

from telme.training.errors import TrainingError

T = TypeVar("T")

_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_START = "start training with `accelerate launch` or `torchrun`, or unset {} to train in one process"
# The others wait while the main process evaluates or decodes a corpus, which may take hours.
_PATIENCE = timedelta(days=7)


class Processes:
    """How many train together, and which of them this one is.

    device: what this process calculates on. number: from 0, the main one. local: the same on this machine alone.
    """

    def __init__(self, device: torch.device, number: int = 0, count: int = 1, local: int = 0) -> None:
        """For a count above 1, torch's default process group must be there; every process must do the same."""
        self.device = torch.device("cpu") if device.type == "cpu" else device  # some libraries know no "cpu:0"
        self.number = number
        self.count = count
        self._local = local
        self._talk = distributed.new_group(backend="gloo", timeout=_PATIENCE) if count > 1 else None

    @property
    def main(self) -> bool:
        return self.number == 0

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            distributed.barrier(group=self._talk)

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """One process of each machine goes through the body before the others, which find what it has left on disk."""
        if self._local:
            self.wait()
        yield
        if not self._local:
            self.wait()

    def told(self, value: T) -> T:
        """What the main process calls with."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self._talk, device=torch.device("cpu"))
        return box[0]

    def total(self, value: float) -> float:
        """The sum of all processes' values."""
        if self.count == 1:
            return value
        summed = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(summed, group=self._talk)
        return summed.item()

    def counted(self, several: Iterable[Mapping[str, int]]) -> Counter[str]:
        """The sums of all processes' counts, by name."""
        counts: Counter[str] = Counter()
        for one in several:
            counts.update(one)
        if self.count == 1:
            return counts
        everybody: list[Counter[str]] = [Counter()] * self.count
        distributed.all_gather_object(everybody, counts, group=self._talk)
        return sum(everybody, Counter())

    def share_weights(self, model: nn.Module) -> None:
        """Every process gets the main one's."""
        if self.count > 1:
            for tensor in model.state_dict().values():
                distributed.broadcast(tensor, src=0)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Every process gets the sum of all; what has no gradient in any process keeps none."""
        if self.count == 1:
            return
        used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
        distributed.all_reduce(used, group=self._talk)
        sums = []
        for parameter, users in zip(parameters, used.tolist(), strict=True):
            if users:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                sums.append(distributed.all_reduce(parameter.grad, async_op=True))
        for one in sums:
            one.wait()


@cache
def together() -> Processes:
    """The processes that this one belongs to, as the launcher's environment variables say; alone without a launcher.

    Raises TrainingError when they are incomplete or contradict one another or this machine.
    """
    where = launched(os.environ)
    no_gpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    if where is None:
        return Processes(PartialState(cpu=no_gpu).device)
    on_gpus = torch.cuda.is_available() and not no_gpu
    if on_gpus and where.local >= torch.cuda.device_count():
        raise TrainingError(
            f"This machine has {torch.cuda.device_count()} GPUs, and the launcher has started more processes on it; "
            "start one per GPU."
        )
    try:
        state = PartialState(cpu=not on_gpus)
        return Processes(state.device, state.process_index, state.num_processes, state.local_process_index)
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"The {where.count} processes cannot reach one another at {where.address} ({reason}); check that address, "
            "or start again on another --master-port."
        ) from error


@dataclass(frozen=True)
class Place:
    """What a launcher says of one process. address: where the main one listens."""

    number: int
    local: int
    count: int
    address: str


def launched(environment: Mapping[str, str]) -> Place | None:
    """None without a launcher. Raises TrainingError for variables that are missing or cannot be."""
    given = "LOCAL_RANK" if "LOCAL_RANK" in environment else "WORLD_SIZE"
    for name in _MPI:
        if given not in environment and environment.get(name, "1") != "1":
            raise TrainingError(
                f"MPI has started {environment[name]} processes ({name}), which would each train alone; "
                f"{_START.format(name)}."
            )
    if given not in environment or (given == "WORLD_SIZE" and environment[given] in ("", "1")):
        return None
    missing = [name for name in _LAUNCHED if not environment.get(name)]
    if missing:
        raise TrainingError(
            f"The launcher's environment is incomplete: {given} is set, but not {', '.join(missing)}; "
            f"{_START.format(given)}."
        )
    number, local, count = (_whole(environment, name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    place = Place(number, local, count, f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}")
    if not 0 <= place.number < place.count:
        raise TrainingError(
            f"The launcher's environment contradicts itself: RANK is {place.number} of WORLD_SIZE {place.count}; "
            f"{_START.format(given)}."
        )
    return place


def _whole(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError as error:
        raise TrainingError(
            f"The launcher's environment is broken: {name} is {environment[name]!r}, which is no number; "
            f"{_START.format(name)}."
        ) from error
