"""Stage 2, visual: train the student that looks, at FER2013's faces or at the clips of conversations."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from telme.bundle import Score, VisualSpec
from telme.corpora import fer2013
from telme.corpora.fer2013 import Faces
from telme.corpora.records import Corpus, Split, Utterance, digest
from telme.evaluation import Evaluation, accuracy, bootstrap_interval, fit_temperature, weighted_f1
from telme.features.video import fit_square, normalise, pad, planes
from telme.labels import MELD
from telme.models.visual import VisualStudent
from telme.training import checkpoint
from telme.training.augment_faces import augment
from telme.training.config import TrainingConfig, VisualSettings
from telme.training.errors import TrainingError
from telme.training.inputs import inputs
from telme.training.loop import Task, fit
from telme.training.processes import together
from telme.training.visual_footage import footage_task
from telme.training.visual_student import described_student

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor]  # frames (B, 1, C, S, S), mask (B, 1), labels (B,)


class VisualTraining(Task, Protocol):
    """A visual student in training on one corpus.

    student: the same object as `model`. labels: of its logits. unit: what the corpus has many of, such as "faces".
    utterances: those of all splits that it sees.
    """

    student: VisualStudent
    corpus: Corpus
    labels: tuple[str, ...]
    unit: str
    utterances: Sequence[Utterance]

    def held_out(self) -> dict[Split, Evaluation]:
        """Results on dev and test."""
        ...


def train(config: TrainingConfig) -> None:
    """Train, calibrate on dev, score on test, and write the part `visual` into the run's folder."""
    settings = config.visual
    if settings is None:
        raise TrainingError(f"The configuration {config.name} has no section `visual`; add it.")
    commit = checkpoint.current_commit()
    torch.manual_seed(config.seed)
    task: VisualTraining = (
        faces_task(config, settings) if settings.corpus == "fer2013" else footage_task(config, settings)
    )
    folder = config.folder / "visual"
    teachers: Sequence[checkpoint.PartName] = () if settings.corpus == "fer2013" else ("text",)
    made_from = inputs(config.labels, digest(task.utterances), config.folder, teachers)
    fit(task, settings.schedule, folder / "fit", config.seed, settings.model_dump_json(), made_from)
    if not together().main:
        return
    temperature, scores = judge(task)
    about = checkpoint.Checkpoint(
        part="visual",
        labels=task.labels,
        architecture=vars(task.student.dimensions),
        preprocessing=settings.input,
        temperature=temperature,
        scores=scores,
        corpora=(task.corpus.name,),
        licence=task.corpus.terms,
        config=config.name,
        seed=config.seed,
        commit=commit,
        made_from=dict(made_from),
    )
    checkpoint.save(folder, about, task.model)
    log.info("visual student written to %s", folder)


def faces_task(config: TrainingConfig, settings: VisualSettings) -> "VisualTask":
    """Raises TrainingError where the settings do not fit FER2013."""
    if settings.input.kind != "face_crops":
        raise TrainingError(f"FER2013 holds face crops, not {settings.input.kind}; set visual.input.kind: face_crops.")
    if isinstance(settings.backbone, str):
        raise TrainingError(
            f"{settings.backbone} looks at clips and FER2013 holds stills; describe a face_cnn in visual.backbone."
        )
    if config.labels != MELD:
        raise TrainingError(
            f"FER2013's emotions are not those of {config.conversations}; set visual.corpus: {config.conversations}."
        )
    faces = fer2013.load(config.corpora / "fer2013")
    model = described_student(settings.backbone, settings.vector, len(MELD))
    return VisualTask(model, faces, settings, config.seed)


class Stills:
    """The faces of one split, as the student sees them.

    pictures: (n, S, S[, 3]) uint8. truth: (n,) int64, indices into MELD's labels.
    """

    def __init__(self, faces: Faces, split: Split, spec: VisualSpec) -> None:
        images, labels = faces.split(split)
        self.pictures = np.stack([fit_square(np.stack([image] * 3, axis=2), spec) for image in images])
        self.truth = np.array([MELD.index(label) for label in labels], np.int64)
        self.digest = digest(faces.corpus.split(split))

    def __len__(self) -> int:
        return len(self.truth)


class VisualTask:
    """Cross-entropy on the emotion of each face, each an utterance of one frame."""

    def __init__(self, model: VisualStudent, faces: Faces, settings: VisualSettings, seed: int) -> None:
        # Convolutions on a CPU are fastest with the channels last.
        self.student: VisualStudent = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads lack it
        self.model: nn.Module = self.student
        self.corpus = faces.corpus
        self.utterances: Sequence[Utterance] = faces.corpus.utterances
        self.labels: tuple[str, ...] = MELD
        self.unit = "faces"
        self._settings = settings
        self._seed = seed
        self.train, self.dev, self.test = (Stills(faces, split, settings.input) for split in ("train", "dev", "test"))

    def train_batches(self, epoch: int) -> "AugmentedBatches":
        return AugmentedBatches(self.train, self._settings, self._seed * 10_007 + epoch)

    def items(self, batch: Batch) -> Mapping[str, int]:
        return {"loss": len(batch[2])}

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        frames, mask, truth = batch
        _, logits = self.model(frames, mask)
        smoothing = self._settings.schedule.label_smoothing
        return {"loss": cross_entropy(logits.float(), truth, label_smoothing=smoothing)}

    def evaluate(self) -> Mapping[str, float]:
        metrics = self.results(self.dev).metrics()
        return {"score": metrics[self._settings.select_by], **metrics}

    def held_out(self) -> dict[Split, Evaluation]:
        return {"dev": self.results(self.dev), "test": self.results(self.test)}

    def results(self, stills: Stills) -> Evaluation:
        _, logits = self.encode(stills)
        return Evaluation.of(logits, stills.truth, MELD)

    @torch.inference_mode()
    def encode(self, stills: Stills) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Vectors (n, d) and logits (n, C) of single faces."""
        device = next(self.model.parameters()).device
        outputs = []
        for start in range(0, len(stills), 256):
            batch = pad([[picture] for picture in stills.pictures[start : start + 256]], self._settings.input)
            outputs.append(
                self.model(torch.from_numpy(batch.frames).to(device), torch.from_numpy(batch.mask).to(device))
            )
        vectors, logits = zip(*outputs, strict=True)
        return torch.cat(vectors).cpu().numpy(), torch.cat(logits).cpu().numpy()


class AugmentedBatches:
    """One epoch of training faces in random order, varied as they are asked for; the last partial batch is left out."""

    def __init__(self, stills: Stills, settings: VisualSettings, seed: int) -> None:
        self._stills = stills
        self._settings = settings
        self._seed = seed

    def __len__(self) -> int:
        return len(self._stills) // self._settings.schedule.batch

    def __iter__(self) -> Iterator[Batch]:
        return self.share(0, 1)

    def share(self, number: int, count: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self._seed)
        order = torch.randperm(len(self._stills), generator=generator).numpy()
        if count > 1:
            generator.manual_seed(self._seed + 1_000_003 * (number + 1))
        size = self._settings.schedule.batch
        for start in range(number * size, len(self) * size, count * size):
            chosen = order[start : start + size]
            pixels = torch.from_numpy(planes(self._stills.pictures[chosen]))
            varied = augment(pixels, self._settings.augmentation, generator)
            frames = torch.from_numpy(normalise(varied.numpy(), self._settings.input))[:, None]
            yield frames, torch.ones(size, 1), torch.from_numpy(self._stills.truth[chosen])


def judge(task: VisualTraining) -> tuple[float, tuple[Score, ...]]:
    """The temperature fitted on dev, and the scores on dev and test with 95 % intervals of the common ones."""
    held_out = task.held_out()
    temperature = fit_temperature(held_out["dev"].logits, held_out["dev"].truth)
    with_interval = {"accuracy": accuracy, "weighted_f1": weighted_f1}
    scores = []
    for split, evaluation in held_out.items():
        data = f"{task.corpus.name} {split}, {len(evaluation.truth)} {task.unit}"
        figures = {
            **evaluation.metrics(),
            "calibration_error_before": evaluation.calibration_error(),
            "calibration_error": evaluation.calibration_error(temperature),
        }
        for metric, value in figures.items():
            measure = with_interval.get(metric)
            interval = bootstrap_interval(evaluation.resampled_counts(), measure) if measure else None
            scores.append(Score(part="visual", data=data, metric=metric, value=value, interval=interval))
            log.info("%s: %s %.4f %s", data, metric, value, interval or "")
    return temperature, tuple(scores)
