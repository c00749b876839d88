"""What a training run is made of, read from one YAML file."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from telme.training.errors import TrainingError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(_Section):
    """How one part is optimised: AdamW, linear warm-up, then linear decay to zero."""

    epochs: int = Field(ge=1)
    batch: int = Field(ge=1, description="items per batch")
    learning_rate: float = Field(gt=0, description="peak, reached at the end of the warm-up")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of all optimiser steps")
    weight_decay: float = Field(0.01, ge=0, description="not on biases and norms")
    clip_norm: float = Field(1.0, gt=0, description="the gradient's length is cut to this")
    accumulation: int = Field(1, ge=1, description="batches per optimiser step")
    bf16: bool = Field(False, description="run the model in bfloat16 where that is safe; weights stay float32")
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class TeacherSettings(_Section):
    """The text teacher, fine-tuned with cross-entropy."""

    schedule: Schedule


class AudioSettings(_Section):
    """The audio student, taught by the teacher where text is paired with speech."""

    schedule: Schedule


class VisualSettings(_Section):
    """The visual student, taught by the teacher where text is paired with video."""

    schedule: Schedule


class FusionSettings(_Section):
    """The fusion, trained while teacher and students are frozen."""

    schedule: Schedule


class TrainingConfig(_Section):
    """A whole training run. A stage whose section is absent cannot be run."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9._-]*$")
    seed: int = Field(42, ge=0)
    output: Path | None = Field(None, description="run folder; by default runs/<name>")
    corpora: Path = Field(Path("corpora"), description="folder that holds meld/, ravdess/, …")
    teacher: TeacherSettings | None = None
    audio: AudioSettings | None = None
    visual: VisualSettings | None = None
    fusion: FusionSettings | None = None

    @property
    def folder(self) -> Path:
        """Where the run's parts are written: one subfolder per part."""
        return self.output or Path("runs") / self.name


def load(path: Path) -> TrainingConfig:
    """Read a training configuration.

    Raises TrainingError when the file is unreadable, or holds an unknown key or a value out of range.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(
            f"Cannot read the configuration {path} ({error.strerror}); give an existing file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"{path} is not YAML ({reason}); correct that place.") from error
    try:
        return TrainingConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole file"
        raise TrainingError(f"{path}: {where}: {first['msg']}, found {first['input']!r}.") from error
