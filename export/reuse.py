"""Encoders of a bundle, taken over into a run folder as they are: what is trained there goes with them."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.errors import ExportError
from telme.bundle import Bundle, BundleError, Modality, Part, Spec, TextSpec, verify
from telme.runtime import backends
from telme.training import checkpoint
from telme.training.checkpoint import Checkpoint

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
    """Stands where the part's own module would. Computes one utterance at a time."""

    def __init__(self, folder: Path, about: Checkpoint) -> None:
        """folder: of the run's part. Raises ExportError when a file is missing or damaged, or cannot be run here."""
        super().__init__()
        if about.exported is None:
            raise ValueError(f"{folder} holds a trained part")
        self.part = about.exported
        self._folder = folder
        self._inputs = [tensor.name for tensor in self.part.inputs]
        widths = {tensor.name: int(tensor.shape[1]) for tensor in self.part.outputs}
        self.dimensions = Dimensions(widths["vector"], widths["logits"])
        try:
            for file in self.part.files():
                verify(folder, f"{about.part} part", file.file, file.sha256)
            self._model = backends.load(folder / self.part.file, self.part, torch.get_num_threads())
        except BundleError as error:
            raise ExportError(str(error)) from error

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """As the trained module: vector (B, vector), logits (B, labels)."""
        arrays = dict(zip(self._inputs, (tensor.numpy() for tensor in inputs), strict=True))
        rows = [
            self._model.run({name: array[place : place + 1] for name, array in arrays.items()})
            for place in range(len(inputs[0]))
        ]
        vector, logits = (np.concatenate([row[name] for row in rows]) for name in ("vector", "logits"))
        return torch.from_numpy(vector), torch.from_numpy(logits)

    def copy(self, folder: Path) -> Part:
        """The part as it is, in a bundle's folder."""
        for file in self.part.files():
            shutil.copyfile(self._folder / file.file, folder / file.file)
        return self.part
