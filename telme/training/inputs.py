"""What a part is made from besides its settings: where any of it is another, its training is not continued."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from telme.training import checkpoint
from telme.training.errors import TrainingError

Inputs = Mapping[str, str]  # what -> how it is told from another; a refusal calls it by its name


def inputs(labels: Sequence[str], utterances: str, run: Path, parts: Sequence[checkpoint.PartName] = ()) -> Inputs:
    """utterances: their digest. parts: those in the folder `run` that this one is made from."""
    return {"labels": ", ".join(labels), "utterances": utterances, **{_of(part): _weights(run, part) for part in parts}}


def require_labels(found: Sequence[str], folder: Path, labels: Sequence[str]) -> None:
    """Raises TrainingError where `found`, what the part in `folder` answers in, are others."""
    if tuple(found) != tuple(labels):
        raise TrainingError(
            f"The part in {folder} answers in {', '.join(found)}, not in {', '.join(labels)}; remove it, or "
            "name another run folder."
        )


def require_same(run: Path, part: checkpoint.PartName, source: checkpoint.PartName) -> None:
    """Raises TrainingError where `part` was made from another `source` than the one beside it."""
    known = checkpoint.read(run / part).made_from.get(_of(source))
    if known not in (None, _weights(run, source)):
        raise TrainingError(
            f"{run / part} was made from another {_of(source)} than the one beside it; remove {run / part} and train "
            "that part again."
        )


def _of(part: checkpoint.PartName) -> str:
    return f"{part}/{checkpoint.WEIGHTS}"


def _weights(run: Path, part: checkpoint.PartName) -> str:
    return checkpoint.fingerprint(run / part)
