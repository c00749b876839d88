"""A classifier's answers on disk, item by item, so that they can be judged, drawn and compared without the model.

A file holds JSON lines: the first says what the answers are to, each further one is an item.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from telme.evaluation import Counts, Evaluation

SUFFIX = ".jsonl"


class PredictionsError(Exception):
    """Predictions that cannot be used; the message is one sentence that says what to run or change."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Heading(_Line):
    """What the answers are to."""

    schema_version: str = Field("telme.predictions/1", pattern="^telme.predictions/1$")
    name: str = Field(pattern="^[a-z0-9-]+$", description="tells the answers of one model apart; a file's name")
    part: str = Field(description="what answers: text, audio, visual, fusion, or the students by themselves")
    inputs: str = Field(description="the modalities that it was given")
    data: str = Field(description="corpus and split")
    note: str = Field("", description="what a reader of the figures must know about the inputs")
    labels: tuple[str, ...] = Field(min_length=2)
    temperature: float = Field(1.0, gt=0, description="logits are divided by it; fitted on held-out data")
    grouped_by: str = Field(description="what items depend on each other by, such as `dialogue`; `item` if by nothing")


class _Item(_Line):
    id: str
    group: str
    label: str
    logits: tuple[float, ...]


@dataclass(frozen=True)
class Predictions:
    """Logits for N items.

    ids: unique. groups: what each item's dialogue or speaker is called. truth: (N,), indices into the labels.
    logits: (N, C) float32, not calibrated.
    """

    heading: Heading
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    truth: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        """Raises ValueError when there are no items, their numbers differ, or an id is there twice."""
        shape = (len(self.ids), len(self.heading.labels))
        if not self.ids or not len(self.ids) == len(self.groups) == len(self.truth) or self.logits.shape != shape:
            raise ValueError(f"{len(self.ids)} items, but logits {self.logits.shape}")
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("an item is there twice")

    @property
    def evaluation(self) -> Evaluation:
        return Evaluation.of(self.logits, self.truth, self.heading.labels)

    def grouped_counts(self) -> Counts:
        """One confusion matrix per group: (G, C, C)."""
        return self.evaluation.grouped_counts(self.groups)

    def resampled_counts(self) -> Counts:
        """Confusion matrices as `evaluation.resample` takes them: of groups, or of all items where there are none."""
        return self.evaluation.counts if self.heading.grouped_by == "item" else self.grouped_counts()

    def write(self, path: Path) -> None:
        """Write the file; its folder exists."""
        labels = self.heading.labels
        rows = zip(self.ids, self.groups, self.truth, self.logits.tolist(), strict=True)
        items = (_Item(id=id_, group=group, label=labels[label], logits=logits) for id_, group, label, logits in rows)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(line.model_dump_json() + "\n" for line in (self.heading, *items))

    @classmethod
    def read(cls, path: Path) -> "Predictions":
        """Raises PredictionsError when the file is missing or holds something else."""
        try:
            lines = path.read_bytes().splitlines()
            if not lines:
                raise ValueError("it is empty")
            heading = Heading.model_validate_json(lines[0])
            return _predictions(heading, [_Item.model_validate_json(line) for line in lines[1:]])
        except OSError as error:
            raise PredictionsError(
                f"Cannot read the predictions {path} ({error.strerror}); run telme-evaluate run again."
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(step) for step in first["loc"]) or "a line"
            raise PredictionsError(
                f"{path} holds no predictions ({where}: {first['msg']}); run telme-evaluate run again."
            ) from error
        except ValueError as error:
            raise PredictionsError(f"{path} holds no predictions ({error}); run telme-evaluate run again.") from error


def _predictions(heading: Heading, items: Sequence[_Item]) -> Predictions:
    unknown = sorted({item.label for item in items} - set(heading.labels))
    if unknown:
        raise ValueError(f"unknown label {unknown[0]!r}")
    return Predictions(
        heading,
        tuple(item.id for item in items),
        tuple(item.group for item in items),
        np.array([heading.labels.index(item.label) for item in items], np.int64),
        np.array([item.logits for item in items], np.float32),
    )


def grouped_pair(first: Predictions, second: Predictions) -> tuple[Counts, Counts]:
    """Both sets' confusion matrices by group, (G, C, C), for a paired comparison.

    Raises PredictionsError when they are not of the same items.
    """
    if first.heading.labels != second.heading.labels:
        raise PredictionsError(
            f"The runs cannot be compared: the labels of {first.heading.name} are {', '.join(first.heading.labels)} "
            f"in one and {', '.join(second.heading.labels)} in the other; evaluate both on the same corpus."
        )
    items = [dict(zip(p.ids, zip(p.groups, p.truth.tolist(), strict=True), strict=True)) for p in (first, second)]
    if items[0] != items[1]:
        differing = sorted({one for one, _ in items[0].items() ^ items[1].items()})
        raise PredictionsError(
            f"The runs cannot be compared: {len(differing)} of the items of {first.heading.name} differ, such as "
            f"{differing[0]}; evaluate both with the same version on the same corpora."
        )
    return first.grouped_counts(), second.grouped_counts()
