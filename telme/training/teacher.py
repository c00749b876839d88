"""Stage 1: fine-tune the text teacher on dialogues."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from telme.bundle import Score
from telme.corpora.records import Corpus, Utterance, digest
from telme.evaluation import Evaluation, bootstrap_interval, fit_temperature
from telme.features.text import Ids, Prompter, Turn
from telme.labels import MELD
from telme.losses import response_loss
from telme.models.sources import locate, reading
from telme.models.teacher import Teacher
from telme.training import checkpoint
from telme.training.bucketing import bucketed
from telme.training.config import BiggerTeacher, TeacherSettings, TextNoise, TrainingConfig
from telme.training.distillation import Answer, ask_teacher
from telme.training.errors import TrainingError
from telme.training.inputs import inputs
from telme.training.loop import fit
from telme.training.processes import together
from telme.training.text_noise import ASR_ERRORS, Recogniser
from telme.training.tokenizer import prepare_tokenizer

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """input_ids, attention_mask: (B, L). truth: (B,). bigger: (B, C), a bigger teacher's logits, or None."""

    input_ids: Tensor
    attention_mask: Tensor
    truth: Tensor
    bigger: Tensor | None


def train(config: TrainingConfig) -> None:
    """Train, calibrate on dev, score on test, and write the part `text` into the run's folder."""
    settings = config.teacher
    if settings is None:
        raise TrainingError(f"The configuration {config.name} has no section `teacher`; add it.")
    corpus = config.load_conversations(clips=False)
    commit = checkpoint.current_commit()
    torch.manual_seed(config.seed)
    with reading(settings.backbone):
        tokenizer, spec = prepare_tokenizer(
            locate(settings.backbone), settings.speakers, settings.max_tokens, settings.heard
        )
        model = Teacher.pretrained(
            locate(settings.backbone), tokenizer.get_vocab_size(), vector=settings.vector, labels=len(config.labels)
        )
    answers = {}
    if settings.taught_by:
        answers = _ask_bigger(settings.taught_by, corpus.split("train"), config.labels, settings.schedule.bf16)
    task = TeacherTask(model, Prompter(spec, tokenizer), corpus, settings, config.seed, answers, config.labels)
    folder = config.folder / "text"
    made_from = dict(inputs(config.labels, digest(corpus.utterances), config.folder))
    if settings.taught_by:
        made_from["bigger teacher"] = checkpoint.fingerprint(settings.taught_by.run / "text")
    fit(task, settings.schedule, folder / "fit", config.seed, settings.model_dump_json(), made_from)
    if not together().main:
        return
    temperature, scores = judge(task, corpus)
    about = checkpoint.Checkpoint(
        part="text",
        labels=config.labels,
        architecture=vars(model.dimensions),
        preprocessing=spec,
        temperature=temperature,
        scores=scores,
        corpora=(corpus.name,),
        licence=corpus.terms,
        config=config.name,
        seed=config.seed,
        commit=commit,
        made_from=made_from,
    )
    checkpoint.save(folder, about, model, tokenizer)
    log.info("text teacher written to %s", folder)


def _ask_bigger(
    bigger: BiggerTeacher, items: Sequence[Utterance], labels: tuple[str, ...], bf16: bool
) -> dict[str, Answer]:
    folder = bigger.run / "text"
    if (known := checkpoint.read(folder).labels) != labels:
        raise TrainingError(
            f"The teacher in {folder} answers in {', '.join(known)}, not in {', '.join(labels)}; name another run in "
            "teacher.taught_by.run."
        )
    return ask_teacher(folder, items, bf16=bf16, labels=labels)


class TeacherTask:
    """Cross-entropy on the emotion of each utterance, given the dialogue up to it; weighted F1 on dev selects.

    A bigger teacher's answers to the undisturbed dialogue are learnt besides, with alpha * L_response.
    """

    def __init__(
        self,
        model: Teacher,
        prompter: Prompter,
        corpus: Corpus,
        settings: TeacherSettings,
        seed: int,
        answers: Mapping[str, Answer] | None = None,
        labels: tuple[str, ...] = MELD,
    ) -> None:
        """answers: of the bigger teacher to every training utterance, by id, where the settings name one."""
        self.model: nn.Module = model
        self.labels = labels
        self._prompter = prompter
        self._answers = answers or {}
        self._taught_by = settings.taught_by
        self._schedule = settings.schedule
        self._seed = seed
        self._train = corpus.split("train")
        self._dev = corpus.split("dev")
        self._noise = settings.noise and Recogniser(settings.noise, (item.turns[-1].text for item in self._train))

    def train_batches(self, epoch: int) -> list[Batch]:
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._train))
        heard = [self._heard(self._train[item].turns, random) for item in order]
        prompts = [self._prompter.encode(turns) for turns in heard]
        truth = torch.from_numpy(indices([self._train[item] for item in order], self.labels))
        bigger = torch.stack([self._answers[self._train[i].id].logits for i in order]) if self._taught_by else None
        batches = bucketed([len(prompt) for prompt in prompts], self._schedule.batch)
        random.shuffle(batches)
        return [
            Batch(*self._padded([prompts[i] for i in batch]), truth[batch], None if bigger is None else bigger[batch])
            for batch in batches
        ]

    def items(self, batch: Batch) -> Mapping[str, int]:
        return {"loss": len(batch.truth)}

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        _, logits = self.model(batch.input_ids, batch.attention_mask)
        logits = logits.float()
        loss = cross_entropy(logits, batch.truth, label_smoothing=self._schedule.label_smoothing)
        if self._taught_by is not None and batch.bigger is not None:
            loss = loss + self._taught_by.alpha * response_loss(logits, batch.bigger, self._taught_by.temperature)
        return {"loss": loss}

    def evaluate(self) -> Mapping[str, float]:
        metrics = self.results(self._dev).metrics()
        return {"score": metrics["weighted_f1"], **metrics}

    def results(self, items: Sequence[Utterance]) -> Evaluation:
        return Evaluation.of(self.logits(items), indices(items, self.labels), self.labels)

    @torch.inference_mode()
    def logits(self, items: Sequence[Utterance]) -> npt.NDArray[np.float32]:
        """Logits (N, C) of utterances as the corpus writes them, in their order."""
        device = next(self.model.parameters()).device
        prompts = [self._prompter.encode(item.turns) for item in items]
        result = np.zeros((len(items), len(self.labels)), np.float32)
        for batch in bucketed([len(prompt) for prompt in prompts], 64):
            input_ids, attention_mask = self._padded([prompts[i] for i in batch])
            _, logits = self.model(input_ids.to(device), attention_mask.to(device))
            result[batch] = logits.float().cpu().numpy()
        return result

    def _heard(self, turns: Sequence[Turn], random: np.random.Generator) -> Sequence[Turn]:
        return self._noise.disturb(turns, random) if self._noise else turns

    def _padded(self, prompts: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        input_ids, attention_mask = self._prompter.batch(prompts)
        return torch.from_numpy(input_ids), torch.from_numpy(attention_mask)


def judge(task: TeacherTask, corpus: Corpus) -> tuple[float, tuple[Score, ...]]:
    """The temperature fitted on dev, and the scores on dev, test and misheard test.

    Weighted F1 comes with its 95 % interval by dialogue.
    """
    dev, test = corpus.split("dev"), corpus.split("test")
    misheard = mishear(test, corpus)
    on_dev, on_test, on_misheard = task.results(dev), task.results(test), task.results(misheard)
    temperature = fit_temperature(on_dev.logits, on_dev.truth)
    scores = []
    for split, evaluation, items in (
        ("dev", on_dev, dev),
        ("test", on_test, test),
        ("test with 20 % word errors", on_misheard, misheard),
    ):
        data = f"{corpus.name} {split}, {len(items)} utterances"
        figures = {
            **evaluation.metrics(),
            "calibration_error_before": evaluation.calibration_error(),
            "calibration_error": evaluation.calibration_error(temperature),
        }
        dialogues = [item.dialogue or item.id for item in items]
        interval = bootstrap_interval(evaluation.grouped_counts(dialogues))
        for metric, value in figures.items():
            of_it = interval if metric == "weighted_f1" else None
            scores.append(Score(part="text", data=data, metric=metric, value=value, interval=of_it))
            log.info("%s: %s %.4f %s", data, metric, value, of_it or "")
    return temperature, tuple(scores)


def mishear(
    items: Sequence[Utterance], corpus: Corpus, noise: TextNoise = ASR_ERRORS, draw: int = 0
) -> list[Utterance]:
    """The utterances with a recogniser's mistakes in all turns: the same ones each time, others for another `draw`."""
    recogniser = Recogniser(noise, (item.turns[-1].text for item in corpus.split("train")))
    random = np.random.default_rng(draw)
    return [replace(item, turns=tuple(recogniser.disturb(item.turns, random))) for item in items]


def indices(items: Sequence[Utterance], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Each utterance's place among its corpus's labels: (N,)."""
    return np.array([labels.index(item.label) for item in items], np.int64)
