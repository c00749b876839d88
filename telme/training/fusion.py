"""Stage 3: train the fusion while teacher and students are frozen.

Where the students learnt from the conversations that the teacher reads, an utterance brings its own speech and
pictures. Else an utterance of MELD's text is given speech and a face of the same emotion from other corpora. Such
pairs agree better than life does, so in training either may be missing, and either may show another emotion while the
label is the text's. They also never say in a plain sentence how somebody feels, so of neutral texts some are spoken
with an emotion, which is then the label.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from telme.bundle import MODALITIES, FusionSpec, Score
from telme.corpora import fer2013
from telme.corpora.records import Corpus, Split
from telme.evaluation import Evaluation, bootstrap_interval, fit_temperature, weighted_f1
from telme.labels import MELD
from telme.models.fusion import ASF, FusionDimensions
from telme.training import checkpoint
from telme.training.company import Batch, Company, Material, Paired, Pairing
from telme.training.config import FusionSettings, TextNoise, TrainingConfig
from telme.training.encodings import AudioPart, Encodings, TextPart, VisualPart
from telme.training.errors import TrainingError
from telme.training.inputs import inputs, require_labels, require_same
from telme.training.loop import fit
from telme.training.processes import together
from telme.training.speech import CORPORA, labelled, load_speech, select
from telme.training.students import STUDENTS, judge_students
from telme.training.text_noise import ASR_ERRORS, Recogniser
from telme.training.visual import Stills
from telme.training.visual_footage import load_footage

log = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
MISHEARD = "misheard"  # the test split's text with a recogniser's mistakes


def train(config: TrainingConfig) -> None:
    """Train, calibrate on dev, score on test, and write the part `fusion` into the run's folder."""
    settings = config.fusion
    if settings is None:
        raise TrainingError(f"The configuration {config.name} has no section `fusion`; add it.")
    commit = checkpoint.current_commit()
    text, audio, visual = (
        TextPart.trained(config.folder / "text"),
        AudioPart.trained(config.folder / "audio"),
        VisualPart.trained(config.folder / "visual"),
    )
    joined = {part: checkpoint.read(config.folder / part) for part in MODALITIES}
    for part, one in joined.items():
        require_labels(one.labels, config.folder / part, config.labels)
    for student in STUDENTS:
        require_same(config.folder, student, "text")
    material = encode(config, settings, text, audio, visual)
    torch.manual_seed(config.seed)
    dimensions = FusionDimensions(
        text=text.vector,
        audio=audio.vector,
        visual=visual.vector,
        labels=len(config.labels),
        heads=settings.heads,
        dropout=settings.dropout,
    )
    task = FusionTask(ASF(dimensions), material, settings, config.seed, config.labels, text.about.corpora[0])
    folder = config.folder / "fusion"
    made_from = inputs(config.labels, _digest(material), config.folder, MODALITIES)
    fit(task, settings.schedule, folder / "fit", config.seed, settings.model_dump_json(), made_from)
    if not together().main:
        return
    temperature, scores = judge(task)
    students_temperature, without_text = judge_students(
        {"audio": audio, "visual": visual}, material, config.labels, task.corpus, config.seed
    )
    about = checkpoint.Checkpoint(
        part="fusion",
        labels=config.labels,
        architecture=asdict(dimensions),
        preprocessing=FusionSpec(beta=settings.beta, unsure=settings.unsure, input_order=dimensions.order),
        temperature=temperature,
        students_temperature=students_temperature,
        scores=(*scores, *without_text),
        corpora=tuple(dict.fromkeys(name for part in joined.values() for name in part.corpora)),
        licence="; ".join(dict.fromkeys(part.licence for part in joined.values())),
        config=config.name,
        seed=config.seed,
        commit=commit,
        made_from=dict(made_from),
    )
    checkpoint.save(folder, about, task.model)
    log.info("fusion written to %s", folder)


def _digest(material: Mapping[str, Company]) -> str:
    each = [one.digest for company in material.values() for one in (company.text, company.audio, company.visual)]
    return hashlib.sha256(" ".join(each).encode()).hexdigest()


def encode(
    config: TrainingConfig, settings: FusionSettings, text: TextPart, audio: AudioPart, visual: VisualPart
) -> Mapping[str, Company]:
    """Every split as the trained parts see it: whole utterances where the students learnt from the conversations.

    Where the settings have `noise`, train and dev have a recogniser's mistakes, and `MISHEARD` is there besides.
    """
    if config.audio is None:
        raise TrainingError(f"The configuration {config.name} has no section `audio`, which names the speech to pair.")
    watched = config.visual is not None and config.visual.corpus == config.conversations
    if watched and config.conversations in config.audio.corpora:
        if settings.plain_share:
            raise TrainingError(
                f"fusion.plain_share is {settings.plain_share}, but the utterances of {config.conversations} have "
                "their own speech and pictures; set it to 0."
            )
        return _paired(config, settings, text, audio, visual)
    if config.labels != MELD:
        raise TrainingError(
            f"Speech and faces of other corpora are paired with MELD's text alone; name {config.conversations} in "
            "audio.corpora and visual.corpus."
        )
    return _by_label(config, config.audio.corpora, settings, text, audio, visual)


def _by_label(
    config: TrainingConfig,
    speech: Sequence[str],
    settings: FusionSettings,
    text: TextPart,
    audio: AudioPart,
    visual: VisualPart,
) -> dict[str, Material]:
    dialogues = config.load_conversations(clips=False)
    faces = fer2013.load(config.corpora / "fer2013")
    clips = load_speech(config, {name: CORPORA[name](config.corpora / name) for name in speech})
    material: dict[str, Material] = {}
    for split in SPLITS:
        bf16 = settings.bf16_encoding and split == "train"
        material[split] = Material(
            _read(text, dialogues, split, settings, config.seed),
            audio.encode(labelled(select(clips, split), config.labels), bf16),
            visual.encode(Stills(faces, split, visual.spec), bf16),
        )
        log.info("%s: encoded", split)
    if settings.noise is not None:
        material[MISHEARD] = replace(material["test"], text=_mishear(text, dialogues, "test", ASR_ERRORS, config.seed))
    return material


def _paired(
    config: TrainingConfig, settings: FusionSettings, text: TextPart, audio: AudioPart, visual: VisualPart
) -> dict[str, Paired]:
    corpus = config.load_conversations(clips=True)
    clips = load_speech(config, {config.conversations: corpus})
    seen = load_footage(config, visual.spec, corpus)
    material: dict[str, Paired] = {}
    for split in SPLITS:
        bf16 = settings.bf16_encoding and split == "train"
        material[split] = Paired(
            _read(text, corpus, split, settings, config.seed),
            audio.encode(select(clips, split), bf16),
            visual.watch([clip for clip in seen if clip.utterance.split == split], bf16),
        )
        log.info("%s: encoded", split)
    if settings.noise is not None:
        material[MISHEARD] = replace(material["test"], text=_mishear(text, corpus, "test", ASR_ERRORS, config.seed))
    return material


def _read(text: TextPart, corpus: Corpus, split: Split, settings: FusionSettings, seed: int) -> Encodings:
    """The text of a split; that of train and dev with the mistakes that the settings ask for."""
    bf16 = settings.bf16_encoding and split == "train"
    if settings.noise is not None and split != "test":
        return _mishear(text, corpus, split, settings.noise, seed, bf16)
    return text.encode(corpus.split(split), bf16)


def _mishear(
    text: TextPart, corpus: Corpus, split: Split, noise: TextNoise, seed: int, bf16: bool = False
) -> Encodings:
    recogniser = Recogniser(noise, (item.turns[-1].text for item in corpus.split("train")))
    random = np.random.default_rng((seed, SPLITS.index(split)))
    heard = [(item, *recogniser.hear(item.turns, random)) for item in corpus.split(split)]
    encoded = text.encode([replace(item, turns=tuple(turns)) for item, turns, _ in heard], bf16)
    return replace(encoded, confidence=np.array([confidence for *_, confidence in heard], np.float32))


class FusionTask:
    """Cross-entropy on the emotion of each text with the company it is given; weighted F1 on dev selects."""

    def __init__(
        self,
        model: ASF,
        material: Mapping[str, Company],
        settings: FusionSettings,
        seed: int,
        labels: tuple[str, ...] = MELD,
        corpus: str = "MELD",
    ) -> None:
        """material: at least train, dev and test. corpus: whose text it is, for the scores."""
        self.model: nn.Module = model
        self._sizes = model.dimensions.text, model.dimensions.audio, model.dimensions.visual
        self.labels = labels
        self.corpus = corpus
        self.material = material
        self._settings = settings
        self._spec = FusionSpec(beta=settings.beta, unsure=settings.unsure)
        self._seed = seed
        missing = settings.missing_share
        self.pairing = Pairing(missing, missing, settings.unmatched_share, settings.plain_share)

    def train_batches(self, epoch: int) -> Sequence[Batch]:
        random = np.random.default_rng((self._seed, epoch))
        company = self.material["train"].pair(self.pairing, random)
        order = random.permutation(len(company.truth))
        cuts = range(self._settings.schedule.batch, len(order), self._settings.schedule.batch)
        return [Batch(*(tensor[rows] for tensor in company)) for rows in np.split(order, cuts)]

    def items(self, batch: Batch) -> Mapping[str, int]:
        return {"loss": len(batch.truth)}

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        smoothing = self._settings.schedule.label_smoothing
        return {"loss": cross_entropy(self._logits(batch).float(), batch.truth, label_smoothing=smoothing)}

    def evaluate(self) -> Mapping[str, float]:
        metrics = self.results("dev", self.pairing).metrics()
        return {"score": metrics["weighted_f1"], **metrics}

    @torch.inference_mode()
    def results(self, split: str, pairing: Pairing) -> Evaluation:
        """On all of a split, paired in the same way each time."""
        device = next(self.model.parameters()).device
        company = self.material[split].pair(pairing, np.random.default_rng(self._seed))
        logits = self._logits(Batch(*(tensor.to(device) for tensor in company)))
        groups = self.material[split].text.groups
        return Evaluation.of(logits.float().cpu().numpy(), company.truth.numpy(), self.labels, groups)

    def _logits(self, batch: Batch) -> Tensor:
        beta = batch.confidence.new_tensor([self._spec.bound(one) for one in batch.confidence.tolist()])
        logits: Tensor = self.model(*batch.vectors(*self._sizes)[:5], beta)
        return logits


def judge(task: FusionTask) -> tuple[float, tuple[Score, ...]]:
    """The temperature fitted on dev, paired as in training, and weighted F1 on test in whatever company.

    Where there is misheard text, that is scored in the same company.
    """
    on_dev = task.results("dev", task.pairing)
    temperature = fit_temperature(on_dev.logits, on_dev.truth)
    note = task.material["test"].note
    companies = {
        "text only": Pairing(audio_missing=1, visual_missing=1),
        f"text and audio; {note}": Pairing(visual_missing=1),
        f"text and visual; {note}": Pairing(audio_missing=1),
        f"text, audio and visual; {note}": Pairing(),
        "text, with audio and visual of random emotions": Pairing(unmatched=1),
        f"as in training: some missing, some of random emotions; {note}": task.pairing,
    }
    scores = []
    said = {"test": "", MISHEARD: " with 20 % word errors"}
    for (split, how), (company, pairing) in product(said.items(), companies.items()):
        if split not in task.material:
            continue
        evaluation = task.results(split, pairing)
        data = f"{task.corpus} test{how}, {len(evaluation.truth)} utterances, {company}"
        figures = {
            "weighted_f1": (weighted_f1(evaluation.counts), bootstrap_interval(evaluation.resampled_counts())),
            "calibration_error": (evaluation.calibration_error(temperature), None),
        }
        for metric, (value, interval) in figures.items():
            scores.append(Score(part="fusion", data=data, metric=metric, value=value, interval=interval))
            log.info("%s: %s %.4f %s", data, metric, value, interval or "")
    return temperature, tuple(scores)
