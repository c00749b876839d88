"""Stage 2, audio: train the student that hears speech."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from telme.bundle import Score
from telme.corpora.conversations import CONVERSATIONS
from telme.corpora.records import Corpus, digest, grouping
from telme.corpora.waveforms import Clip
from telme.evaluation import Evaluation, accuracy, bootstrap_interval, fit_temperature, weighted_f1
from telme.features.audio import AudioFeatures
from telme.labels import MELD
from telme.models.audio import AudioStudent
from telme.models.sources import SourceError
from telme.models.whisper_weights import WeightsError
from telme.training import checkpoint
from telme.training.augment_audio import SpeechAugmenter, cut_silence
from telme.training.config import AudioSettings, Schedule, TrainingConfig
from telme.training.distillation import Answer, Distiller, ask_teacher
from telme.training.errors import TrainingError
from telme.training.inputs import inputs
from telme.training.loop import decay_groups, fit
from telme.training.processes import together
from telme.training.speech import CORPORA, OWN_LABELS, labelled, load_speech, select
from telme.training.speech_batches import (
    NO_LABEL,
    Batch,
    Collator,
    TrainingBatches,
    label_weights,
    own_truth,
    plain_features,
    truth,
)

log = logging.getLogger(__name__)

_EVALUATED_AT_ONCE = 16


def train(config: TrainingConfig) -> None:
    """Train, calibrate on dev, score on test, and write the part `audio` into the run's folder."""
    settings = config.audio
    if settings is None:
        raise TrainingError(f"The configuration {config.name} has no section `audio`; add it.")
    if strangers := set(settings.corpora) & set(CONVERSATIONS) - {config.conversations}:
        raise TrainingError(
            f"audio.corpora names {', '.join(strangers)}, but conversations is {config.conversations}, whose labels "
            "all parts answer in; name one corpus in both."
        )
    corpora: dict[str, Corpus] = {name: CORPORA[name](config.corpora / name) for name in settings.corpora}
    commit = checkpoint.current_commit()
    torch.manual_seed(config.seed)
    model = pretrained_student(settings, config.labels)
    clips = load_speech(config, corpora)
    taught = [clip.utterance for clip in select(clips, "train")]
    answers = ask_teacher(config.folder / "text", taught, settings.vector, settings.schedule.bf16, labels=config.labels)
    task = AudioTask(model, clips, settings, config.seed, answers, config.labels)
    folder = config.folder / "audio"
    utterances = digest(clip.utterance for clip in clips)
    made_from = inputs(config.labels, utterances, config.folder, ("text",) if answers else ())
    fit(task, settings.schedule, folder / "fit", config.seed, settings.model_dump_json(), made_from)
    if not together().main:
        return
    temperature, scores = judge(task, clips)
    about = checkpoint.Checkpoint(
        part="audio",
        labels=config.labels,
        architecture=asdict(model.dimensions),
        preprocessing=settings.input,
        temperature=temperature,
        scores=scores,
        corpora=tuple(corpus.name for corpus in corpora.values()),
        licence="; ".join(corpus.terms for corpus in corpora.values()),
        config=config.name,
        seed=config.seed,
        commit=commit,
        made_from=dict(made_from),
    )
    checkpoint.save(folder, about, model)
    log.info("audio student written to %s", folder)


def pretrained_student(settings: AudioSettings, labels: Sequence[str]) -> AudioStudent:
    """What training begins with. Raises TrainingError where the pretrained encoder cannot be read."""
    try:
        return AudioStudent.pretrained(
            settings.backbone,
            settings.vector,
            len(labels),
            layers=settings.layers,
            pooling=settings.pooling,
            standardise=settings.standardise,
            dropout=settings.dropout,
            corpus_labels={name: len(OWN_LABELS[name]) for name in settings.corpora if name in OWN_LABELS},
        )
    except (SourceError, WeightsError) as error:
        raise TrainingError(str(error)) from error


class AudioTask:
    """Cross-entropy on the run's labels and on the corpora's own, and what the teacher says."""

    def __init__(
        self,
        model: AudioStudent,
        clips: Sequence[Clip],
        settings: AudioSettings,
        seed: int,
        answers: Mapping[str, Answer] | None = None,
        labels: tuple[str, ...] = MELD,
    ) -> None:
        """answers: the teacher's, by utterance id; without any the labels alone teach.

        labels: of the run. Clips whose label has no counterpart among them teach through their corpus's own.
        """
        self.model: nn.Module = model
        self.labels = labels
        self._student = model
        self._settings = settings
        self._distiller = Distiller(settings.distillation)
        self._seed = seed
        self._train = select(clips, "train")
        self._dev = labelled(select(clips, "dev"), labels)
        features = AudioFeatures(settings.input)
        self._collator = Collator(
            features, {name: OWN_LABELS[name] for name in model.corpus_classifiers}, answers or {}, labels
        )
        voices = [clip.samples for clip in self._train]
        self._augmenter = SpeechAugmenter(settings.augmentation, voices) if settings.augmentation else None
        self._weights = (
            torch.from_numpy(label_weights(truth(self._train, labels), len(labels))) if settings.balanced else None
        )

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, object]]:
        """The pretrained encoder learns at a rate of its own."""
        pretrained = list(self._student.backbone.parameters())
        known = {id(parameter) for parameter in pretrained}
        new = [parameter for parameter in self._student.parameters() if id(parameter) not in known]
        rate = schedule.learning_rate
        return [
            *decay_groups(pretrained, rate * self._settings.backbone_rate, schedule.weight_decay),
            *decay_groups(new, rate, schedule.weight_decay),
        ]

    def train_batches(self, epoch: int) -> TrainingBatches:
        self._distiller = Distiller(self._settings.distillation)
        size, seed = self._settings.schedule.batch, self._seed * 10_007 + epoch
        return TrainingBatches(self._train, size, self._collator, self._augmenter, seed)

    def items(self, batch: Batch) -> Mapping[str, int]:
        labelled = {"labels": batch.truth, **batch.own_truth}
        return {name: int((truth != NO_LABEL).sum()) for name, truth in labelled.items()} | {
            "teacher": len(batch.taught)
        }

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        vector, logits = self._student(batch.features, batch.mask)
        smoothing = self._settings.schedule.label_smoothing
        losses = {"labels": labelled_cross_entropy(logits, batch.truth, smoothing, self._weights)}
        for corpus, own in batch.own_truth.items():
            losses[corpus] = labelled_cross_entropy(self._student.corpus_logits(corpus, vector), own, smoothing)
        if len(batch.taught):
            student = Answer(vector[batch.taught].float(), logits[batch.taught].float())
            teacher = Answer(batch.teacher_vectors, batch.teacher_logits)
            losses["teacher"] = self._distiller.loss(student, teacher)
        return losses

    def evaluate(self) -> Mapping[str, float]:
        metrics = self.results(self._dev).metrics()
        return {"score": metrics[self._settings.select_by], **metrics}

    def results(self, clips: Sequence[Clip]) -> Evaluation:
        """On the run's labels; all clips have one."""
        _, logits = self.encode(clips)
        return Evaluation.of(logits, truth(clips, self.labels), self.labels, _groups(clips))

    def own_results(self, corpus: str, clips: Sequence[Clip]) -> Evaluation:
        """On the labels of the corpus that all clips come from."""
        vectors, _ = self.encode(clips)
        device = next(self._student.parameters()).device
        with torch.inference_mode():
            logits = self._student.corpus_logits(corpus, torch.from_numpy(vectors).to(device)).float().cpu().numpy()
        labels = OWN_LABELS[corpus]
        return Evaluation.of(logits, own_truth(clips, corpus, labels), labels, _groups(clips))

    @torch.inference_mode()
    def encode(self, clips: Sequence[Clip]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Vectors (N, d) and logits (N, C) of clips as they are; the model is in evaluation mode."""
        device = next(self._student.parameters()).device
        outputs = []
        for start in range(0, len(clips), _EVALUATED_AT_ONCE):
            part = clips[start : start + _EVALUATED_AT_ONCE]
            batch = self._collator(part, [plain_features(self._collator.features, clip) for clip in part])
            outputs.append(self._student(batch.features.to(device), batch.mask.to(device)))
        vectors, logits = zip(*outputs, strict=True)
        return torch.cat(vectors).cpu().numpy(), torch.cat(logits).cpu().numpy()


def labelled_cross_entropy(logits: Tensor, truth: Tensor, smoothing: float, weights: Tensor | None = None) -> Tensor:
    """Mean over the items that have a label; 0 where none has.

    logits: (B, C). truth: (B,), indices or NO_LABEL. weights: (C,), of each label's items.
    """
    if weights is not None:
        weights = weights.to(logits.device)
    losses = cross_entropy(
        logits.float(), truth, weight=weights, ignore_index=NO_LABEL, label_smoothing=smoothing, reduction="sum"
    )
    return losses / (truth != NO_LABEL).sum().clamp_min(1)


def _groups(clips: Sequence[Clip]) -> tuple[str, ...]:
    return grouping([clip.utterance for clip in clips])[1]


def judge(task: AudioTask, clips: Sequence[Clip]) -> tuple[float, tuple[Score, ...]]:
    """The temperature fitted on dev, and the scores on every corpus's test split with 95 % intervals by group.

    Clips are heard whole, and again with the silence around the speech cut as a voice detector cuts it.
    """
    on_dev = task.results(labelled(select(clips, "dev"), task.labels))
    temperature = fit_temperature(on_dev.logits, on_dev.truth)
    scores: list[Score] = []
    for corpus in dict.fromkeys(clip.corpus for clip in clips):
        test = select(clips, "test", corpus)
        known = labelled(test, task.labels)
        cut = [replace(clip, samples=cut_silence(clip.samples)) for clip in known]
        whole = task.results(known)
        data = f"{corpus} test, {len(known)} utterances"
        scores += _scores(whole, data)
        scores.append(_score(data, "calibration_error", whole.calibration_error(temperature)))
        scores += _scores(task.results(cut), f"{data}, silence cut")
        if corpus in OWN_LABELS:
            labels = OWN_LABELS[corpus]
            scores += _scores(
                task.own_results(corpus, test), f"{corpus} test, {len(test)} utterances, own {len(labels)} labels"
            )
    for score in scores:
        log.info("%s: %s %.4f %s", score.data, score.metric, score.value, score.interval or "")
    return temperature, tuple(scores)


def mean_recall(counts: npt.NDArray[np.number]) -> float:
    """Mean recall over the labels that occur: what acted corpora, which lack some of the labels, are compared by.

    counts: (C, C), how often class `row` was called class `column`.
    """
    occur = counts.sum(axis=1) > 0
    return float((np.diagonal(counts)[occur] / counts.sum(axis=1)[occur]).mean())


def _scores(evaluation: Evaluation, data: str) -> list[Score]:
    metrics = {"accuracy": accuracy, "mean_recall": mean_recall, "weighted_f1": weighted_f1}
    return [
        _score(data, name, metric(evaluation.counts), bootstrap_interval(evaluation.resampled_counts(), metric))
        for name, metric in metrics.items()
    ]


def _score(data: str, metric: str, value: float, interval: tuple[float, float] | None = None) -> Score:
    return Score(part="audio", data=data, metric=metric, value=value, interval=interval)
