"""A run folder: the four parts that belong together, trained there or taken over from a bundle."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar, get_args

from tokenizers import Tokenizer
from torch import nn

from export.errors import ExportError
from export.reuse import ReusedEncoder
from telme.bundle import AudioSpec, FusionSpec, TextSpec, VisualSpec, offline_complaint
from telme.models.audio import AudioDimensions, AudioStudent
from telme.models.fusion import ASF, FusionDimensions
from telme.models.teacher import Teacher, TeacherDimensions
from telme.models.visual import VisualDimensions, VisualStudent
from telme.training import checkpoint
from telme.training.checkpoint import Checkpoint, PartName
from telme.training.errors import TrainingError

D = TypeVar("D")
M = TypeVar("M", bound=nn.Module)
S = TypeVar("S", TextSpec, AudioSpec, VisualSpec, FusionSpec)


@dataclass(frozen=True)
class Specifications:
    """How the four parts' inputs are made."""

    text: TextSpec
    audio: AudioSpec
    visual: VisualSpec
    fusion: FusionSpec


@dataclass(frozen=True)
class Trained:
    """A whole trained model, on the CPU and in evaluation mode.

    text, audio, visual: as trained, or as an earlier export made them.
    checkpoints: part -> what it is and where it comes from.
    """

    text: Teacher | ReusedEncoder
    audio: AudioStudent | ReusedEncoder
    visual: VisualStudent | ReusedEncoder
    fusion: ASF
    tokenizer: Tokenizer
    specifications: Specifications
    checkpoints: Mapping[str, Checkpoint]

    @property
    def reused(self) -> dict[PartName, ReusedEncoder]:
        """The parts that an earlier export made."""
        encoders: dict[PartName, nn.Module] = {"text": self.text, "audio": self.audio, "visual": self.visual}
        return {name: encoder for name, encoder in encoders.items() if isinstance(encoder, ReusedEncoder)}

    @property
    def labels(self) -> tuple[str, ...]:
        return self.checkpoints["text"].labels

    @classmethod
    def read(cls, run: Path) -> Self:
        """Load `run`/{text,audio,visual,fusion}.

        Raises ExportError when the folder holds no run, or a part is missing, damaged, or of another model.
        """
        if not run.is_dir():
            raise ExportError(f"{run} is no run folder; give one that telme-train has written, such as runs/compact.")
        try:
            for part in get_args(PartName):
                _demand_kind(run / part, part)
            about_text, text = _encoder(run / "text", Teacher, TeacherDimensions)
            about_audio, audio = _encoder(run / "audio", AudioStudent, AudioDimensions)
            about_visual, visual = _encoder(run / "visual", VisualStudent, VisualDimensions)
            about_fusion, fusion = checkpoint.load(run / "fusion", ASF, FusionDimensions)
        except TrainingError as error:
            raise ExportError(str(error)) from error
        checkpoints = {"text": about_text, "audio": about_audio, "visual": about_visual, "fusion": about_fusion}
        _demand_one_model(run, checkpoints.values())
        specifications = Specifications(
            _specification(run, about_text, TextSpec),
            _specification(run, about_audio, AudioSpec),
            _specification(run, about_visual, VisualSpec),
            _specification(run, about_fusion, FusionSpec),
        )
        if complaint := offline_complaint(*vars(specifications).values()):
            raise ExportError(complaint)
        tokenizer = _tokenizer(run / "text" / specifications.text.tokenizer)
        return cls(text, audio, visual, fusion, tokenizer, specifications, checkpoints)


def _encoder(folder: Path, module: Callable[[D], M], dimensions: type[D]) -> tuple[Checkpoint, M | ReusedEncoder]:
    about = checkpoint.read(folder)
    if about.exported is not None:
        return about, ReusedEncoder(folder, about)
    return checkpoint.load(folder, module, dimensions)


def _demand_kind(folder: Path, part: PartName) -> None:
    found = checkpoint.read(folder).part
    if found != part:
        raise ExportError(f"{folder} holds the {found} part of a model, not the {part} part; put that one there.")


def _demand_one_model(run: Path, checkpoints: Iterable[Checkpoint]) -> None:
    for what in ("labels", "config"):
        found = {getattr(about, what): about.part for about in checkpoints}
        if len(found) > 1:
            (one, its), (other, others) = list(found.items())[:2]
            raise ExportError(
                f"The parts in {run} differ in {what}: {its} has {one}, {others} has {other}; train them together."
            )


def _specification(run: Path, about: Checkpoint, kind: type[S]) -> S:
    if not isinstance(about.preprocessing, kind):
        found = type(about.preprocessing).__name__
        raise ExportError(f"{run} has {found} instead of {kind.__name__} in a part; train its {about.part} part again.")
    return about.preprocessing


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise ExportError(f"{path} is no tokenizer ({error}); train the text part again.") from error
