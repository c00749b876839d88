"""Encoders of a bundle, taken over into a run folder as they are: what is trained there goes with them."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from export.errors import ExportError
from telme.bundle import Bundle, Modality, Part, Spec, TextSpec
from telme.training import checkpoint, networks
from telme.training.checkpoint import Checkpoint
from telme.training.errors import TrainingError

log = logging.getLogger(__name__)


def take_over(bundle: Bundle, modalities: Sequence[Modality], run: Path) -> None:
    """Put the bundle's parts into the run folder, where they count as trained.

    Raises ExportError when the run has such a part already, or cannot be written.
    """
    for modality in modalities:
        if (run / modality).exists():
            raise ExportError(f"{run / modality} exists; remove it, or choose another --output.")
    try:
        for modality in modalities:
            _write(bundle, modality, run / modality)
    except OSError as error:
        raise ExportError(f"Cannot write {run} ({error.strerror}); make room or choose another --output.") from error


def _write(bundle: Bundle, modality: Modality, folder: Path) -> None:
    manifest = bundle.manifest
    part: Part = getattr(manifest.parts, modality)
    specification: Spec = getattr(manifest, modality)
    folder.mkdir(parents=True)
    for file in part.files():
        shutil.copyfile(bundle.folder / file.file, folder / file.file)
    if isinstance(specification, TextSpec):
        shutil.copyfile(bundle.folder / specification.tokenizer, folder / specification.tokenizer)
    training = manifest.training
    about = Checkpoint(
        part=modality,
        labels=manifest.labels,
        architecture={},
        preprocessing=specification,
        temperature=getattr(manifest.calibration, modality),
        scores=tuple(score for score in training.scores if score.part == modality),
        corpora=part.corpora,
        licence="; ".join(terms for terms in training.licence.split("; ") if terms.partition(":")[0] in part.corpora),
        config=training.config,
        seed=training.seed,
        commit=training.commit,
        exported=part,
    )
    # Last, so that a folder that was not finished is none.
    (folder / checkpoint.ABOUT).write_text(about.model_dump_json(indent=2) + "\n", encoding="utf-8")
    log.info("%s part of %s taken over into %s", modality, bundle.folder, folder)


@dataclass(frozen=True)
class Dimensions:
    """Of what a part says. vector: of the utterance. labels: number of emotions."""

    vector: int
    labels: int


class ReusedEncoder(nn.Module):
    """Stands where the part's own module would."""

    def __init__(self, folder: Path, about: Checkpoint) -> None:
        """folder: of the run's part. Raises ExportError when a file is missing or damaged, or cannot be run here."""
        super().__init__()
        if about.exported is None:
            raise ValueError(f"{folder} holds a trained part")
        self.part = about.exported
        self._folder = folder
        try:
            self._network = networks.taken_over(folder, about.part, about.exported)
        except TrainingError as error:
            raise ExportError(str(error)) from error
        self.dimensions = Dimensions(self._network.vector, self._network.size - self._network.vector)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """As the trained module: vector (B, vector), logits (B, labels), of no more utterances than the part takes."""
        rows = self._network([tensor.numpy() for tensor in inputs], bf16=False)
        return rows[:, : self.dimensions.vector], self._network.logits(rows)

    def copy(self, folder: Path) -> Part:
        """The part as it is, in a bundle's folder."""
        for file in self.part.files():
            shutil.copyfile(self._folder / file.file, folder / file.file)
        return self.part
