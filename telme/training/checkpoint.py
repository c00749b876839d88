"""A trained part on disk: `checkpoint.json` says what it is, `model.safetensors` holds the weights.

A run folder holds one such folder per part: `text`, `audio`, `visual` and `fusion`. A part is rebuilt from its
folder alone, without the model hub or the corpora.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from telme.bundle import AudioSpec, FusionSpec, Part, Score, TextSpec, VisualSpec, sha256_of
from telme.training.errors import TrainingError

PartName = Literal["text", "audio", "visual", "fusion"]
ABOUT = "checkpoint.json"
WEIGHTS = "model.safetensors"

D = TypeVar("D")
M = TypeVar("M", bound=nn.Module)


class Checkpoint(BaseModel):
    """What a trained part is and where it comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["telme.checkpoint/1"] = "telme.checkpoint/1"
    part: PartName
    labels: tuple[str, ...] = Field(min_length=2)
    architecture: dict[str, Any] = Field(description="the fields of the model's dimensions class")
    preprocessing: TextSpec | AudioSpec | VisualSpec | FusionSpec
    temperature: float = Field(1.0, gt=0, description="logits are divided by it; fitted on held-out data")
    students_temperature: float = Field(
        1.0, gt=0, description="of the fusion: the same for the students' mean log-probabilities, without text"
    )
    scores: tuple[Score, ...] = ()
    corpora: tuple[str, ...] = Field(description="what the weights were trained on")
    licence: str = Field(description="what the corpora allow the weights to be used for")
    config: str = Field(description="name of the training configuration")
    seed: int
    commit: Annotated[str, Field(description="of the code that trained it")]
    made_from: dict[str, str] = Field({}, description="labels, digest of the utterances, hashes of other parts")
    exported: Part | None = Field(
        None, description="the file of a bundle, beside this one, that the part was taken over from; it has no weights"
    )


def save(folder: Path, checkpoint: Checkpoint, model: nn.Module, tokenizer: Tokenizer | None = None) -> None:
    """Write a part. A text part brings its tokenizer, saved under the name that its specification gives."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(checkpoint.preprocessing, TextSpec):
        if tokenizer is None:
            raise ValueError("a text part needs its tokenizer")
        tokenizer.save(str(folder / checkpoint.preprocessing.tokenizer))
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS
    )
    (folder / ABOUT).write_text(checkpoint.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Checkpoint:
    """What the part in `folder` is. Raises TrainingError when it is missing or damaged."""
    path = folder / ABOUT
    try:
        return Checkpoint.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TrainingError(f"No trained part in {folder} ({error.strerror}); run telme-train for it first.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole file"
        raise TrainingError(f"{path}: {where}: {first['msg']}; train this part again.") from error


def load(folder: Path, module: Callable[[D], M], dimensions: type[D]) -> tuple[Checkpoint, M]:
    """Rebuild a part in evaluation mode, on the CPU.

    module: makes the model from its dimensions, without looking at a hub: usually the class itself.
    Raises TrainingError when the part is missing or damaged.
    """
    checkpoint = read(folder)
    if checkpoint.exported is not None:
        raise TrainingError(
            f"The {checkpoint.part} part in {folder} was taken over from a bundle, whose weights are rounded: it can "
            "only be used as it is; train that part here instead."
        )
    try:
        model = module(TypeAdapter(dimensions).validate_python(checkpoint.architecture))
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(f"The weights in {folder} do not fit ({reason}); train this part again.") from error
    return checkpoint, model.eval()


def fingerprint(folder: Path) -> str:
    """SHA-256 of what the part computes with. Raises TrainingError when it is missing or damaged."""
    exported = read(folder).exported
    return sha256_of(folder / WEIGHTS) if exported is None else exported.sha256


def current_commit(folder: Path = Path(__file__).parent) -> str:
    """The commit of the code, with `+changes` where the working tree differs; "unknown" outside a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=30
        ).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", str(folder.parent))
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
