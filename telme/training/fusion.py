"""Stage 3: train the fusion while teacher and students are frozen.

No corpus with text, speech and faces of the same utterances is needed: an utterance of MELD's text is given speech
and a face of the same emotion from other corpora. Such pairs agree better than life does, so in training either may
be missing, and either may show another emotion; the label is always the text's.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from telme.bundle import FusionSpec, Score
from telme.corpora import fer2013, meld, waveforms
from telme.corpora.records import Split
from telme.evaluation import Evaluation, bootstrap_interval, fit_temperature, weighted_f1
from telme.labels import MELD
from telme.models.fusion import ASF, FusionDimensions
from telme.training import checkpoint
from telme.training.audio import CORPORA, labelled, select
from telme.training.config import FusionSettings, TrainingConfig
from telme.training.encodings import AudioPart, Encodings, TextPart, VisualPart
from telme.training.errors import TrainingError
from telme.training.loop import fit
from telme.training.visual import Stills

log = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
PAIRED = "speech and faces of other corpora paired by label, which is easier than life"


@dataclass(frozen=True)
class Material:
    """The encoded utterances of one split."""

    text: Encodings
    audio: Encodings
    visual: Encodings


class Batch(NamedTuple):
    """text, audio, visual: (B, d). audio_present, visual_present: (B,) float. truth: (B,)."""

    text: Tensor
    audio: Tensor
    visual: Tensor
    audio_present: Tensor
    visual_present: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Pairing:
    """How text finds speech and a face.

    audio_missing, visual_missing: how often there is none, in [0, 1].
    unmatched: how often, of those present, it is of any emotion instead of the text's.
    """

    audio_missing: float = 0.0
    visual_missing: float = 0.0
    unmatched: float = 0.0


def train(config: TrainingConfig) -> None:
    """Train, calibrate on dev, score on test, and write the part `fusion` into the run's folder."""
    settings = config.fusion
    if settings is None:
        raise TrainingError(f"The configuration {config.name} has no section `fusion`; add it.")
    commit = checkpoint.current_commit()
    text, audio, visual = (
        TextPart(config.folder / "text"),
        AudioPart(config.folder / "audio"),
        VisualPart(config.folder / "visual"),
    )
    material = encode(config, settings, text, audio, visual)
    torch.manual_seed(config.seed)
    sizes = material["train"]
    dimensions = FusionDimensions(
        text=sizes.text.vectors.shape[1],
        audio=sizes.audio.vectors.shape[1],
        visual=sizes.visual.vectors.shape[1],
        labels=len(MELD),
        heads=settings.heads,
        dropout=settings.dropout,
    )
    task = FusionTask(ASF(dimensions), material, settings, config.seed)
    folder = config.folder / "fusion"
    fit(task, settings.schedule, folder / "fit", config.seed, settings.model_dump_json())
    temperature, scores = judge(task)
    students = (text.about, audio.about, visual.about)
    about = checkpoint.Checkpoint(
        part="fusion",
        labels=MELD,
        architecture=asdict(dimensions),
        preprocessing=FusionSpec(beta=settings.beta, input_order=dimensions.order),
        temperature=temperature,
        scores=scores,
        corpora=tuple(dict.fromkeys(name for part in students for name in part.corpora)),
        licence="; ".join(dict.fromkeys(part.licence for part in students)),
        config=config.name,
        seed=config.seed,
        commit=commit,
    )
    checkpoint.save(folder, about, task.model)
    log.info("fusion written to %s", folder)


def encode(
    config: TrainingConfig, settings: FusionSettings, text: TextPart, audio: AudioPart, visual: VisualPart
) -> dict[Split, Material]:
    """Every split of the corpora as the trained parts see it."""
    if config.audio is None:
        raise TrainingError(f"The configuration {config.name} has no section `audio`, which names the speech to pair.")
    dialogues = meld.load(config.corpora / "meld")
    faces = fer2013.load(config.corpora / "fer2013")
    clips = [
        clip
        for name in config.audio.corpora
        for clip in waveforms.load(
            name, CORPORA[name](config.corpora / name).utterances, audio.spec.min_s, audio.spec.source_rate_hz
        )
    ]
    material = {}
    for split in SPLITS:
        bf16 = settings.bf16_encoding and split == "train"
        material[split] = Material(
            text.encode(dialogues.split(split), bf16),
            audio.encode(labelled(select(clips, split)), bf16),
            visual.encode(Stills(faces, split, visual.spec), bf16),
        )
        log.info("%s: encoded", split)
    return material


def pair(material: Material, pairing: Pairing, random: np.random.Generator) -> Batch:
    """Give every text of a split speech and a face, as `pairing` says."""
    truth = material.text.truth
    audio, audio_present = _partners(truth, material.audio, pairing.audio_missing, pairing.unmatched, random)
    visual, visual_present = _partners(truth, material.visual, pairing.visual_missing, pairing.unmatched, random)
    return Batch(material.text.vectors, audio, visual, audio_present, visual_present, torch.from_numpy(truth))


def _partners(
    truth: npt.NDArray[np.int64], others: Encodings, missing: float, unmatched: float, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """For each label in `truth` (n,) a random item of `others`: vectors (n, d) and whether there is one (n,)."""
    wanted = np.where(random.random(len(truth)) < unmatched, random.choice(others.truth, len(truth)), truth)
    chosen = np.zeros(len(truth), np.int64)
    present = random.random(len(truth)) >= missing
    for label in np.unique(wanted):
        places = np.flatnonzero(others.truth == label)
        if len(places):
            chosen[wanted == label] = random.choice(places, (wanted == label).sum())
        else:
            present[wanted == label] = False
    return others.vectors[chosen], torch.from_numpy(present.astype(np.float32))


class FusionTask:
    """Cross-entropy on the emotion of each text with the company it is given; weighted F1 on dev selects."""

    def __init__(self, model: ASF, material: Mapping[Split, Material], settings: FusionSettings, seed: int) -> None:
        self.model: nn.Module = model
        self.material = material
        self._settings = settings
        self._seed = seed
        self.pairing = Pairing(settings.missing_share, settings.missing_share, settings.unmatched_share)

    def train_batches(self, epoch: int) -> Sequence[Batch]:
        random = np.random.default_rng((self._seed, epoch))
        company = pair(self.material["train"], self.pairing, random)
        order = random.permutation(len(company.truth))
        cuts = range(self._settings.schedule.batch, len(order), self._settings.schedule.batch)
        return [Batch(*(tensor[rows] for tensor in company)) for rows in np.split(order, cuts)]

    def loss(self, batch: Batch) -> Tensor:
        smoothing = self._settings.schedule.label_smoothing
        return cross_entropy(self._logits(batch).float(), batch.truth, label_smoothing=smoothing)

    def evaluate(self) -> Mapping[str, float]:
        metrics = self.results("dev", self.pairing).metrics()
        return {"score": metrics["weighted_f1"], **metrics}

    @torch.inference_mode()
    def results(self, split: Split, pairing: Pairing) -> Evaluation:
        """On all of a split, paired in the same way each time."""
        device = next(self.model.parameters()).device
        company = pair(self.material[split], pairing, np.random.default_rng(self._seed))
        logits = self._logits(Batch(*(tensor.to(device) for tensor in company)))
        return Evaluation.of(logits.float().cpu().numpy(), company.truth.numpy(), MELD)

    def _logits(self, batch: Batch) -> Tensor:
        beta = torch.full_like(batch.audio_present, self._settings.beta)
        logits: Tensor = self.model(*batch[:5], beta)
        return logits


def judge(task: FusionTask) -> tuple[float, tuple[Score, ...]]:
    """The temperature fitted on dev, paired as in training, and weighted F1 on test in whatever company."""
    on_dev = task.results("dev", task.pairing)
    temperature = fit_temperature(on_dev.logits, on_dev.truth)
    companies = {
        "text only": Pairing(audio_missing=1, visual_missing=1),
        f"text and audio; {PAIRED}": Pairing(visual_missing=1),
        f"text and visual; {PAIRED}": Pairing(audio_missing=1),
        f"text, audio and visual; {PAIRED}": Pairing(),
        "text, with audio and visual of random emotions": Pairing(unmatched=1),
        f"as in training: some missing, some of random emotions; {PAIRED}": task.pairing,
    }
    scores = []
    for company, pairing in companies.items():
        evaluation = task.results("test", pairing)
        data = f"MELD test, {len(evaluation.truth)} utterances, {company}"
        figures = {
            "weighted_f1": (weighted_f1(evaluation.counts), bootstrap_interval(evaluation.counts)),
            "calibration_error": (evaluation.calibration_error(temperature), None),
        }
        for metric, (value, interval) in figures.items():
            scores.append(Score(part="fusion", data=data, metric=metric, value=value, interval=interval))
            log.info("%s: %s %.4f %s", data, metric, value, interval or "")
    return temperature, tuple(scores)
