"""What the processes of a test train together: `python process_task.py FOLDER` in each; options are those of `main`."""

import argparse
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from telme.training.config import Schedule
from telme.training.loop import fit
from telme.training.processes import together

ITEMS = 22
# Batches of an epoch, by how many items most of them have: two neighbours of the first are one of the second.
SIZES = {2: [2, 2, 1, 3, 2, 2, 3, 1, 2, 2, 2], 4: [4, 4, 4, 4, 4, 2]}


class Dots:
    """Points to tell apart, in double precision; without dropout, so that nothing depends on who draws at random.

    Few items use `rare`, so that in a step both processes, one or none have a gradient for it.
    """

    def __init__(self, size: int, kill_in: int | None = None) -> None:
        torch.manual_seed(7)
        self.model: nn.Module = nn.ModuleDict({"layers": nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))})
        self.model["rare"] = nn.Linear(2, 3)
        self.model.double()
        # As a process whose random numbers differ would begin: the loop is to hand out the main one's weights.
        nn.init.normal_(self.model["rare"].weight, generator=torch.Generator().manual_seed(together().number))
        self.points = torch.randn(ITEMS, 2, dtype=torch.float64)
        self.labels = torch.arange(ITEMS) % 3
        self.size = size
        self.kill_in = kill_in
        self.epoch = 0
        self.evaluated = 0
        self.made: list[int] = []

    def train_batches(self, epoch: int) -> "DotBatches":
        self.epoch = epoch
        return DotBatches(self, epoch)

    def items(self, batch: tuple[Tensor, Tensor, Tensor]) -> Mapping[str, int]:
        return {"loss": len(batch[1])}

    def losses(self, batch: tuple[Tensor, Tensor, Tensor]) -> Mapping[str, Tensor]:
        if self.kill_in == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        points, labels, rare = batch
        logits = self.model["layers"](points)
        if rare.any():
            logits = logits + rare[:, None] * self.model["rare"](points)
        return {"loss": cross_entropy(logits, labels)}

    def evaluate(self) -> Mapping[str, float]:
        self.evaluated += 1
        with torch.no_grad():
            return {"score": -cross_entropy(self.model["layers"](self.points), self.labels).item()}


class DotBatches:
    """Batches that note in the task which of them were made."""

    def __init__(self, task: Dots, epoch: int) -> None:
        self.task = task
        order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(epoch))
        self.parts = order.split(SIZES[task.size])

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return self.share(0, 1)

    def share(self, number: int, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for place in range(number, len(self.parts), count):
            self.task.made.append(place)
            part = self.parts[place]
            yield self.task.points[part], self.task.labels[part], (part % 7 == 0).double()


def train(folder: Path, size: int, accumulation: int, kill_in: int | None = None) -> Dots:
    schedule = Schedule(epochs=3, batch=size, learning_rate=0.05, accumulation=accumulation)
    task = Dots(size, kill_in if together().number == together().count - 1 else None)
    fit(task, schedule, folder, seed=1)
    return task


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-in", type=int, help="epoch in whose first batch the last process kills itself")
    options = parser.parse_args()
    task = train(options.folder, size=2, accumulation=1, kill_in=options.kill_in)
    said = options.folder / f"process-{together().number}.txt"
    said.write_text(f"{task.evaluated} {' '.join(map(str, task.made))}\n")


if __name__ == "__main__":
    main()
