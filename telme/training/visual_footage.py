"""Trains the visual student on the clips of conversations, with what the teacher says of the same utterances."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from telme.bundle import VisualSpec
from telme.corpora import footage
from telme.corpora.footage import Footage
from telme.corpora.records import Corpus, Split, Utterance, grouping
from telme.evaluation import Evaluation
from telme.features.video import pad
from telme.models.visual import Clip, VisualStudent
from telme.training.config import TrainingConfig, VisualSettings
from telme.training.distillation import Answer, Distiller, ask_teacher
from telme.training.errors import TrainingError
from telme.training.processes import together
from telme.training.teacher import indices
from telme.training.visual_student import described_student

_EVALUATED_AT_ONCE = 16


class Batch(NamedTuple):
    """frames: (B, N, C, S, S). mask: (B, N). truth: (B,). teacher_vectors: (B, d). teacher_logits: (B, C)."""

    frames: Tensor
    mask: Tensor
    truth: Tensor
    teacher_vectors: Tensor
    teacher_logits: Tensor


def footage_task(config: TrainingConfig, settings: VisualSettings) -> "FootageTask":
    """Decode the clips, ask the teacher, and prepare the student.

    Raises TrainingError where the settings do not fit clips, the teacher is missing, or a split has no usable clip.
    """
    if settings.corpus != config.conversations:
        raise TrainingError(
            f"visual.corpus is {settings.corpus} and conversations is {config.conversations}; name the same in both."
        )
    if settings.input.kind != "frames":
        raise TrainingError(f"Clips are looked at whole, not as {settings.input.kind}; set visual.input.kind: frames.")
    student = _student(settings, config.labels)
    corpus = config.load_conversations(clips=True)
    seen = load_footage(config, settings.input, corpus)
    taught = [clip.utterance for clip in seen if clip.utterance.split == "train"]
    answers = ask_teacher(config.folder / "text", taught, settings.vector, settings.schedule.bf16, labels=config.labels)
    return FootageTask(student, corpus, seen, settings, config.seed, answers, config.labels)


def load_footage(config: TrainingConfig, spec: VisualSpec, corpus: Corpus) -> list[Footage]:
    """The pictures of every utterance that has some, decoded once and kept.

    Raises TrainingError when nothing is left of train, dev or test.
    """
    with together().one_first():
        seen = footage.load(config.conversations, corpus.utterances, spec, config.decoded_files)
    for split in ("train", "dev", "test"):
        if not any(clip.utterance.split == split for clip in seen):
            raise TrainingError(
                f"No utterance of the {split} split of {corpus.name} has a video that can be read; put the clips into "
                f"{config.corpora / config.conversations}, or name another folder with --corpora."
            )
    return seen


def _student(settings: VisualSettings, labels: Sequence[str]) -> VisualStudent:
    if isinstance(settings.backbone, str):
        student = VisualStudent.pretrained(settings.backbone, settings.vector, len(labels))
    else:
        student = described_student(settings.backbone, settings.vector, len(labels))
    encoder, wanted = student.encoder, settings.input.frames
    if isinstance(encoder, Clip) and encoder.frames != wanted:
        raise TrainingError(
            f"The backbone looks at {encoder.frames} frames and visual.input.frames is {wanted}; set them alike."
        )
    return student


class FootageTask:
    """L_student = cross-entropy + alpha L_response + L_feature, against the frozen teacher's answers."""

    def __init__(
        self,
        model: VisualStudent,
        corpus: Corpus,
        seen: Sequence[Footage],
        settings: VisualSettings,
        seed: int,
        answers: Mapping[str, Answer],
        labels: tuple[str, ...],
    ) -> None:
        """answers: the teacher's, by utterance id, of the whole train split."""
        self.student = model
        self.model: nn.Module = model
        self.corpus = corpus
        self.labels = labels
        self.unit = "utterances"
        self.utterances: Sequence[Utterance] = [clip.utterance for clip in seen]
        self.train, self.dev, self.test = (
            [clip for clip in seen if clip.utterance.split == split] for split in ("train", "dev", "test")
        )
        self._answers = answers
        self._settings = settings
        self._distiller = Distiller(settings.distillation)
        self._seed = seed

    def train_batches(self, epoch: int) -> "ShuffledFootage":
        self._distiller = Distiller(self._settings.distillation)
        return ShuffledFootage(self, np.random.default_rng((self._seed, epoch)))

    @property
    def batch_size(self) -> int:
        return self._settings.schedule.batch

    def batch(self, clips: Sequence[Footage]) -> Batch:
        """Clips with the truth and the teacher's answers."""
        frames, mask = self._pictures(clips)
        truth = torch.from_numpy(indices([clip.utterance for clip in clips], self.labels))
        answers = [self._answers[clip.utterance.id] for clip in clips]
        vectors = torch.stack([answer.vector for answer in answers])
        return Batch(frames, mask, truth, vectors, torch.stack([answer.logits for answer in answers]))

    def items(self, batch: Batch) -> Mapping[str, int]:
        return {"loss": len(batch.truth)}

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        vector, logits = self.student(batch.frames, batch.mask)
        smoothing = self._settings.schedule.label_smoothing
        loss = cross_entropy(logits.float(), batch.truth, label_smoothing=smoothing)
        student = Answer(vector.float(), logits.float())
        teacher = Answer(batch.teacher_vectors, batch.teacher_logits)
        return {"loss": loss + self._distiller.loss(student, teacher)}

    def evaluate(self) -> Mapping[str, float]:
        metrics = self._results(self.dev).metrics()
        return {"score": metrics[self._settings.select_by], **metrics}

    def held_out(self) -> dict[Split, Evaluation]:
        return {"dev": self._results(self.dev), "test": self._results(self.test)}

    @torch.inference_mode()
    def _results(self, clips: Sequence[Footage]) -> Evaluation:
        device = next(self.student.parameters()).device
        logits: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(clips), _EVALUATED_AT_ONCE):
            frames, mask = self._pictures(clips[start : start + _EVALUATED_AT_ONCE])
            logits.append(self.student(frames.to(device), mask.to(device))[1].float().cpu().numpy())
        utterances = [clip.utterance for clip in clips]
        truth = indices(utterances, self.labels)
        return Evaluation.of(np.concatenate(logits), truth, self.labels, grouping(utterances)[1])

    def _pictures(self, clips: Sequence[Footage]) -> tuple[Tensor, Tensor]:
        batch = pad([list(clip.pictures()) for clip in clips], self._settings.input)
        return torch.from_numpy(batch.frames), torch.from_numpy(batch.mask)


class ShuffledFootage:
    """One epoch of clips in random order, read from disk as they are asked for."""

    def __init__(self, task: FootageTask, random: np.random.Generator) -> None:
        self._task = task
        order = random.permutation(len(task.train))
        self._batches = np.split(order, range(task.batch_size, len(order), task.batch_size))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return self.share(0, 1)

    def share(self, number: int, count: int) -> Iterator[Batch]:
        for places in self._batches[number::count]:
            yield self._task.batch([self._task.train[place] for place in places])
