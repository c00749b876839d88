"""Stage 2, visual: train the student that looks at faces on FER2013's stills."""

import logging
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from telme.bundle import Score, VisualSpec
from telme.corpora import fer2013
from telme.corpora.fer2013 import Faces
from telme.corpora.records import Split
from telme.evaluation import Evaluation, accuracy, bootstrap_interval, fit_temperature
from telme.features.video import fit_square, normalise, pad, planes
from telme.labels import MELD
from telme.models.visual import VisualDimensions, VisualStudent
from telme.training import checkpoint
from telme.training.augment_faces import augment
from telme.training.config import TrainingConfig, VisualSettings
from telme.training.errors import TrainingError
from telme.training.loop import fit

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor]  # frames (B, 1, C, S, S), mask (B, 1), labels (B,)


def train(config: TrainingConfig) -> None:
    """Train, calibrate on dev, score on test, and write the part `visual` into the run's folder."""
    settings = config.visual
    if settings is None:
        raise TrainingError(f"The configuration {config.name} has no section `visual`; add it.")
    if settings.input.kind != "face_crops":
        raise TrainingError(f"FER2013 holds face crops, not {settings.input.kind}; set visual.input.kind: face_crops.")
    faces = fer2013.load(config.corpora / "fer2013")
    commit = checkpoint.current_commit()
    torch.manual_seed(config.seed)
    model = VisualStudent(VisualDimensions(settings.backbone, settings.vector, len(MELD)))
    task = VisualTask(model, faces, settings, config.seed)
    folder = config.folder / "visual"
    fit(task, settings.schedule, folder / "fit", config.seed, settings.model_dump_json())
    temperature, scores = judge(task)
    about = checkpoint.Checkpoint(
        part="visual",
        labels=MELD,
        architecture=vars(model.dimensions),
        preprocessing=settings.input,
        temperature=temperature,
        scores=scores,
        corpora=(faces.corpus.name,),
        licence=faces.corpus.licence,
        config=config.name,
        seed=config.seed,
        commit=commit,
    )
    checkpoint.save(folder, about, model)
    log.info("visual student written to %s", folder)


class Stills:
    """The faces of one split, as the student sees them.

    pictures: (n, S, S[, 3]) uint8. truth: (n,) int64, indices into MELD's labels.
    """

    def __init__(self, faces: Faces, split: Split, spec: VisualSpec) -> None:
        images, labels = faces.split(split)
        self.pictures = np.stack([fit_square(np.stack([image] * 3, axis=2), spec) for image in images])
        self.truth = np.array([MELD.index(label) for label in labels], np.int64)

    def __len__(self) -> int:
        return len(self.truth)


class VisualTask:
    """Cross-entropy on the emotion of each face, each an utterance of one frame; accuracy on dev selects."""

    def __init__(self, model: VisualStudent, faces: Faces, settings: VisualSettings, seed: int) -> None:
        # Convolutions on a CPU are fastest with the channels last.
        self.model: nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._settings = settings
        self._seed = seed
        self.train, self.dev, self.test = (Stills(faces, split, settings.input) for split in ("train", "dev", "test"))

    def train_batches(self, epoch: int) -> "AugmentedBatches":
        return AugmentedBatches(self.train, self._settings, self._seed * 10_007 + epoch)

    def loss(self, batch: Batch) -> Tensor:
        frames, mask, truth = batch
        _, logits = self.model(frames, mask)
        return cross_entropy(logits.float(), truth, label_smoothing=self._settings.schedule.label_smoothing)

    def evaluate(self) -> Mapping[str, float]:
        metrics = self.results(self.dev).metrics()
        return {"score": metrics["accuracy"], **metrics}

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
        generator = torch.Generator().manual_seed(self._seed)
        order = torch.randperm(len(self._stills), generator=generator).numpy()
        size = self._settings.schedule.batch
        for start in range(0, len(self) * size, size):
            chosen = order[start : start + size]
            pixels = torch.from_numpy(planes(self._stills.pictures[chosen]))
            varied = augment(pixels, self._settings.augmentation, generator)
            frames = torch.from_numpy(normalise(varied.numpy(), self._settings.input))[:, None]
            yield frames, torch.ones(size, 1), torch.from_numpy(self._stills.truth[chosen])


def judge(task: VisualTask) -> tuple[float, tuple[Score, ...]]:
    """The temperature fitted on dev, and the scores on dev and test, accuracy with its 95 % interval."""
    on_dev = task.results(task.dev)
    temperature = fit_temperature(on_dev.logits, on_dev.truth)
    scores = []
    for split, evaluation in {"dev": on_dev, "test": task.results(task.test)}.items():
        data = f"FER2013 {split}, {len(evaluation.truth)} faces"
        figures = {
            **evaluation.metrics(),
            "calibration_error_before": evaluation.calibration_error(),
            "calibration_error": evaluation.calibration_error(temperature),
        }
        for metric, value in figures.items():
            interval = bootstrap_interval(evaluation.counts, accuracy) if metric == "accuracy" else None
            scores.append(Score(part="visual", data=data, metric=metric, value=value, interval=interval))
            log.info("%s: %s %.4f %s", data, metric, value, interval or "")
    return temperature, tuple(scores)
