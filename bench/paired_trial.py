"""One fold and one seed of a study: every arm learns from the same utterances and answers the same test split.

What a fusion or a student learns from is the answers of trained parts: vectors and logits. To utterances that a part
learnt from, it answers with more confidence than to others ("own answers", the paper's way). So everything is also done
with "cross-fitted answers", where on the train split only parts answer that did not learn from the same group.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from paired_parts import Concatenation, HeadTask, Ints, Material, Part, Shifting, StudentTask, train
from torch import Tensor, nn

from telme.evaluation import negative_log_likelihood
from telme.models.fusion import FusionDimensions
from telme.training.config import Distillation, Schedule
from telme.training.distillation import Answer

OWN = "own answers"
CROSS_FITTED = "cross-fitted answers"
EXCHANGED = "answers to others with the label"
MEAN = "mean of log-probabilities"
EVERYTHING = "one part over all features"


@dataclass(frozen=True)
class Data:
    """Utterances with features of every modality; equal rows belong to the same utterance.

    features: modality -> (n, f). truth: (n,), places among `labels`. groups: (n,), who or what must not be split.
    """

    features: Mapping[str, Tensor]
    truth: Tensor
    groups: npt.NDArray[np.str_]
    labels: tuple[str, ...]

    def only(self, rows: Ints) -> "Data":
        features = {modality: values[rows] for modality, values in self.features.items()}
        return Data(features, self.truth[rows], self.groups[rows], self.labels)


@dataclass(frozen=True)
class Fold:
    """Rows of each split; no group is in two of them."""

    train: Ints
    dev: Ints
    test: Ints


def rotating(groups: npt.NDArray[np.str_], folds: int, dev: int) -> list[Fold]:
    """Every group once in a test split; the first `dev` groups of the next fold's test split are this fold's dev split.

    groups: (n,), of each row.
    """
    parts = np.array_split(np.unique(groups), folds)
    rotated = []
    for place, test in enumerate(parts):
        tested = np.isin(groups, test)
        held = np.isin(groups, parts[(place + 1) % folds][:dev])
        rotated.append(Fold(*(np.flatnonzero(rows) for rows in (~(tested | held), held, tested))))
    return rotated


class Roles(NamedTuple):
    """Which modality plays which part in ASF: the leader is shifted, the others, where there are any, shift it."""

    leader: str
    audio: str | None
    visual: str | None


def smoothed(modality: str) -> str:
    """The family of parts that learn from smoothed labels."""
    return f"{modality}, labels smoothed"


class Lesson(NamedTuple):
    teacher: str
    student: str

    @property
    def family(self) -> str:
        return f"{self.student} taught by {self.teacher}"


@dataclass(frozen=True)
class Recipe:
    """How everything is trained: all parts alike, and all fusions alike.

    part_dropout: by modality.
    cross_fits: how many ways the train split is divided, so that each division is answered by a part that did not
        learn from it.
    """

    schedule: Schedule
    part_dropout: Mapping[str, float]
    hidden: int = 128
    vector: int = 64
    heads: int = 4
    fusion_dropout: float = 0.2
    betas: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0)  # the paper's for MELD and for IEMOCAP, and wider ones
    # The paper's for MELD and for IEMOCAP.
    distillations: tuple[Distillation, ...] = (
        Distillation(temperature=4, alpha=1),
        Distillation(temperature=2, alpha=0.1),
    )
    smoothings: tuple[float, ...] = (0.1, 0.3)  # what distillation may be worth without a teacher: softer labels
    cross_fits: int = 3


class Arm(NamedTuple):
    """family: what is compared. setting: what dev chooses within it; empty where there is nothing to choose."""

    family: str
    setting: str = ""


@dataclass(frozen=True)
class Outcome:
    """dev: mean log-likelihood. test: predictions (m,) for the rows of the test split, in order."""

    dev: float
    test: Ints


@dataclass(frozen=True)
class Plan:
    """What is trained in every fold and with every seed.

    shuffled: learn from labels that are shuffled among the utterances, to see that the test labels leak nowhere.
    """

    data: Data
    roles: tuple[Roles, ...]
    lessons: tuple[Lesson, ...]
    recipe: Recipe
    shuffled: bool = False

    def fingerprint(self, fold: Fold) -> str:
        """Other for another plan, other data or another fold."""
        arrays = (*(tensor.numpy() for tensor in self.data.features.values()), self.data.truth.numpy())
        rows = (fold.train, fold.dev, fold.test)
        about = repr((self.roles, self.lessons, self.recipe, self.shuffled, tuple(self.data.features)))
        return sha256(b"".join(array.tobytes() for array in (*arrays, *rows)) + about.encode()).hexdigest()[:16]


class Trial:
    """One fold, one seed: trains every arm."""

    def __init__(self, plan: Plan, fold: Fold, seed: int) -> None:
        self._data = plan.data
        self._recipe = plan.recipe
        self._plan = plan
        self._fold = fold
        self._seed = seed
        self._learnt = plan.data.truth.clone()
        if plan.shuffled:
            random = np.random.default_rng(seed)
            for rows in (fold.train, fold.dev):
                self._learnt[rows] = plan.data.truth[random.permutation(rows)]

    def run(self) -> dict[Arm, Outcome]:
        own: dict[str, Answer] = {}
        crossed: dict[str, Answer] = {}
        outcomes: dict[Arm, Outcome] = {}
        for modality in self._data.features:
            own[modality] = self._part(modality, self._fold.train)
            crossed[modality] = self._cross_fitted(modality, own[modality])
            outcomes[Arm(modality)] = self._outcome(own[modality].logits)
            outcomes |= dict(self._smoothed(modality))
        outcomes[Arm(EVERYTHING)] = self._outcome(self._part(EVERYTHING, self._fold.train).logits)
        log_probabilities = torch.stack([answer.logits.log_softmax(dim=1) for answer in own.values()])
        outcomes[Arm(MEAN)] = self._outcome(log_probabilities.mean(dim=0))
        for kind, answers in ((OWN, own), (CROSS_FITTED, crossed)):
            outcomes |= dict(self._fusions(kind, {name: answer.vector for name, answer in answers.items()}))
            outcomes |= dict(self._students(kind, answers))
        strangers = {name: self._exchanged(answer) for name, answer in crossed.items()}
        return outcomes | dict(self._students(EXCHANGED, strangers))

    def _smoothed(self, modality: str) -> Iterator[tuple[Arm, Outcome]]:
        for smoothing in self._recipe.smoothings:
            answer = self._part(modality, self._fold.train, smoothing=smoothing)
            yield Arm(smoothed(modality), f"by {smoothing:g}"), self._outcome(answer.logits)

    def _part(
        self,
        modality: str,
        rows: Ints,
        lesson: tuple[Answer, Distillation] | None = None,
        smoothing: float = 0.0,
    ) -> Answer:
        """What a part trained on `rows` answers to all utterances. lesson: a teacher's answers to all of them."""
        recipe, data = self._recipe, self._data
        schedule = recipe.schedule.model_copy(update={"label_smoothing": smoothing})
        if modality == EVERYTHING:
            features = torch.cat(list(data.features.values()), dim=1)
            dropout = max(recipe.part_dropout.values())
        else:
            features, dropout = data.features[modality], recipe.part_dropout[modality]
        torch.manual_seed(self._seed)
        model = Part(features[rows], recipe.hidden, recipe.vector, len(data.labels), dropout)
        material = Material((features,), self._learnt, rows, self._fold.dev)
        if lesson is None:
            task = HeadTask(model, material, schedule, self._seed)
        else:
            task = StudentTask(model, material, schedule, self._seed, *lesson)
        train(task, schedule, self._seed)
        with torch.inference_mode():
            answer = model.answer(features)
        return Answer(answer.vector.clone(), answer.logits.clone())

    def _cross_fitted(self, modality: str, own: Answer) -> Answer:
        """The own answers, but on the train split those of parts that did not learn from the utterance's group.

        Each such part has a space of its own; its vectors are rotated to lie as near as possible to the own ones on
        the utterances that both learnt from (orthogonal Procrustes; Schönemann, Psychometrika 1966). Lengths and
        angles, which ASF and L_feature go by, stay as they are.
        """
        vector, logits = own.vector.clone(), own.logits.clone()
        groups = self._data.groups[self._fold.train]
        names = np.unique(groups)
        for first in range(self._recipe.cross_fits):
            left_out = np.isin(groups, names[first :: self._recipe.cross_fits])
            kept, rows = self._fold.train[~left_out], self._fold.train[left_out]
            answer = self._part(modality, kept)
            left, _, right = torch.linalg.svd(answer.vector[kept].T @ own.vector[kept])
            vector[rows] = answer.vector[rows] @ (left @ right)
            logits[rows] = answer.logits[rows]
        return Answer(vector, logits)

    def _exchanged(self, answer: Answer) -> Answer:
        """Each utterance of the train split gets the answer to another that is labelled alike."""
        random = np.random.default_rng(self._seed)
        source = np.arange(len(self._learnt))
        for label in range(len(self._data.labels)):
            rows = self._fold.train[self._learnt.numpy()[self._fold.train] == label]
            shuffled = random.permutation(rows)
            source[shuffled] = np.roll(shuffled, 1)
        return Answer(answer.vector[source], answer.logits[source])

    def _fusions(self, kind: str, vectors: Mapping[str, Tensor]) -> Iterator[tuple[Arm, Outcome]]:
        """vectors: modality -> (n, d)."""
        recipe, labels = self._recipe, len(self._data.labels)
        every = tuple(vectors.values())
        torch.manual_seed(self._seed)
        joined = Concatenation(recipe.vector * len(every), labels, recipe.fusion_dropout)
        yield Arm(f"vectors joined, {kind}"), self._fused(joined, every)
        nothing = torch.zeros(len(self._learnt), 0)
        for roles in self._plan.roles:
            audio, visual = (vectors[name] if name else nothing for name in (roles.audio, roles.visual))
            inputs = (vectors[roles.leader], audio, visual)
            dimensions = FusionDimensions(
                *(tensor.shape[1] for tensor in inputs), labels, recipe.heads, recipe.fusion_dropout
            )
            for beta in recipe.betas:
                torch.manual_seed(self._seed)
                fusion = Shifting(dimensions, beta)
                yield Arm(f"{roles.leader} leads, {kind}", f"beta {beta:g}"), self._fused(fusion, inputs)
            torch.manual_seed(self._seed)
            hidden = Shifting(dimensions, 0.0, accompanied=False)
            yield Arm(f"{roles.leader} leads nobody, {kind}"), self._fused(hidden, inputs)

    def _fused(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Outcome:
        schedule = self._recipe.schedule
        material = Material(inputs, self._learnt, self._fold.train, self._fold.dev)
        train(HeadTask(model, material, schedule, self._seed), schedule, self._seed)
        with torch.inference_mode():
            return self._outcome(model(*inputs))

    def _students(self, kind: str, answers: Mapping[str, Answer]) -> Iterator[tuple[Arm, Outcome]]:
        for lesson, settings in product(self._plan.lessons, self._recipe.distillations):
            answer = self._part(lesson.student, self._fold.train, (answers[lesson.teacher], settings))
            setting = f"tau {settings.temperature:g}, alpha {settings.alpha:g}"
            yield Arm(f"{lesson.family}, {kind}", setting), self._outcome(answer.logits)

    def _outcome(self, logits: Tensor) -> Outcome:
        """logits: (n, C), of all utterances."""
        scores = logits.numpy()
        dev = self._fold.dev
        likelihood = -negative_log_likelihood(scores[dev], self._learnt.numpy()[dev])
        return Outcome(likelihood, scores[self._fold.test].argmax(axis=1))
