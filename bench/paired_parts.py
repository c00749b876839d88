"""Small parts over features that are made once, and fusions over their vectors.

Where the product's parts have a backbone, these have fixed features and a hidden layer. What follows is the product's
own: an utterance vector and a classifier, the distillation losses, ASF, the training loop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from telme.evaluation import accuracy, confusion, negative_log_likelihood
from telme.models.fusion import ASF, FusionDimensions
from telme.training.config import Distillation, Schedule
from telme.training.distillation import Answer, Distiller
from telme.training.loop import fit

Ints = npt.NDArray[np.int64]
Batch = tuple[Tensor, ...]


class Part(nn.Module):
    """Features -> standardised -> a hidden layer -> Linear (utterance vector) -> Linear (logits)."""

    def __init__(self, features: Tensor, hidden: int, vector: int, labels: int, dropout: float) -> None:
        """features: (n, f) of the train split, whose means and deviations standardise."""
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", features.mean(dim=0))
        self.register_buffer("deviation", features.std(dim=0, correction=0))
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Sequential(nn.Linear(features.shape[1], hidden), nn.GELU(), nn.Dropout(dropout))
        self.vector = nn.Linear(hidden, vector)
        self.classifier = nn.Linear(vector, labels)

    def answer(self, features: Tensor) -> Answer:
        """features: (B, f). Vectors (B, d) and logits (B, C)."""
        # A feature that is constant in training says nothing, whatever it is later.
        standardised = torch.where(self.deviation > 0, (features - self.mean) / self.deviation, 0.0)
        vector = self.vector(self.hidden(self.dropout(standardised)))
        return Answer(vector, self.classifier(self.dropout(vector)))

    def forward(self, features: Tensor) -> Tensor:
        return self.answer(features).logits


class Shifting(nn.Module):
    """ASF in which any modality may lead; a role that nobody plays has vectors of length 0."""

    def __init__(self, dimensions: FusionDimensions, beta: float, accompanied: bool = True) -> None:
        """accompanied: False hides the companions, so that only a classifier over the leader's vectors is left."""
        super().__init__()
        self.asf = ASF(dimensions)
        self._beta = beta
        self._present = float(accompanied)

    def forward(self, leader: Tensor, audio: Tensor, visual: Tensor) -> Tensor:
        present = leader.new_full((len(leader),), self._present)
        logits: Tensor = self.asf(leader, audio, visual, present, present, torch.full_like(present, self._beta))
        return logits


class Concatenation(nn.Module):
    """What the paper compares ASF with: the vectors joined, and a classifier; normed and dropped as in ASF."""

    def __init__(self, joined: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(joined), nn.Dropout(dropout), nn.Linear(joined, labels))

    def forward(self, *vectors: Tensor) -> Tensor:
        logits: Tensor = self.layers(torch.cat(vectors, dim=1))
        return logits


@dataclass(frozen=True)
class Material:
    """What is learnt from: inputs, each (n, ·), truth (n,), and which rows are the train and the dev split."""

    inputs: tuple[Tensor, ...]
    truth: Tensor
    train: Ints
    dev: Ints


class HeadTask:
    """Cross-entropy on the labels; the likelihood of dev's labels selects the epoch."""

    def __init__(self, model: nn.Module, material: Material, schedule: Schedule, seed: int) -> None:
        self.model = model
        self._material = material
        self._schedule = schedule
        self._seed = seed
        self._columns: Batch = (material.truth, *material.inputs)

    def train_batches(self, epoch: int) -> Sequence[Batch]:
        order = np.random.default_rng((self._seed, epoch)).permutation(self._material.train)
        cuts = range(self._schedule.batch, len(order), self._schedule.batch)
        return [tuple(column[rows] for column in self._columns) for rows in np.split(order, cuts)]

    def items(self, batch: Batch) -> Mapping[str, int]:
        return {"loss": len(batch[0])}

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        truth, *inputs = batch
        return {"loss": cross_entropy(self.model(*inputs), truth, label_smoothing=self._schedule.label_smoothing)}

    def evaluate(self) -> Mapping[str, float]:
        rows, truth = self._material.dev, self._material.truth.numpy()
        device = next(self.model.parameters()).device
        logits = self.model(*(tensor[rows].to(device) for tensor in self._material.inputs)).cpu().numpy()
        counts = confusion(truth[rows], logits.argmax(axis=1), logits.shape[1])
        return {"score": -negative_log_likelihood(logits, truth[rows]), "accuracy": accuracy(counts)}


class StudentTask(HeadTask):
    """Cross-entropy, and what a teacher answers to the same utterances."""

    def __init__(
        self, model: Part, material: Material, schedule: Schedule, seed: int, teacher: Answer, settings: Distillation
    ) -> None:
        """teacher: vectors (n, d) and logits (n, C), of all rows."""
        super().__init__(model, material, schedule, seed)
        self._student = model
        self._distiller = Distiller(settings)
        self._columns = (material.truth, teacher.vector, teacher.logits, *material.inputs)

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        truth, vectors, logits, features = batch
        student = self._student.answer(features)
        labelled = cross_entropy(student.logits, truth, label_smoothing=self._schedule.label_smoothing)
        return {"loss": labelled + self._distiller.loss(student, Answer(vectors, logits))}


def train(task: HeadTask, schedule: Schedule, seed: int) -> dict[str, float]:
    """Leave the best epoch's weights in the task's model, and nothing else; returns that epoch's dev scores."""
    with TemporaryDirectory() as folder:
        return fit(task, schedule, Path(folder), seed)
