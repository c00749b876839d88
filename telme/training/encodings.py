"""What the teacher and students make of a corpus's utterances: the fusion's raw material.

Imported weights get corrected inputs here, those of our own models; telme.training.parity makes the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from telme.bundle import AudioSpec, Spec, TextSpec, VisualSpec
from telme.corpora.footage import Footage
from telme.corpora.records import Utterance, digest, grouping
from telme.corpora.waveforms import Clip
from telme.features.audio import AudioFeatures
from telme.features.text import Prompter
from telme.features.video import pad
from telme.models.audio import AudioDimensions, AudioStudent
from telme.models.teacher import Teacher, TeacherDimensions
from telme.models.visual import VisualDimensions, VisualStudent
from telme.training import networks
from telme.training.bucketing import bucketed
from telme.training.networks import Network
from telme.training.visual import Stills


@dataclass(frozen=True)
class Encodings:
    """Utterances of one modality.

    vectors: (n, d). truth: (n,), indices into the run's labels. ids: the utterances', where the corpus has any.
    confidence: (n,) float32, how sure a speech recogniser was of the text; None where people wrote it down.
    groups: what each one's dialogue or speaker is called, where the corpus says.
    digest: of the utterances, which tells them from others.
    """

    vectors: Tensor
    truth: npt.NDArray[np.int64]
    ids: tuple[str, ...] = ()
    confidence: npt.NDArray[np.float32] | None = None
    groups: tuple[str, ...] = ()
    digest: str = ""

    def __len__(self) -> int:
        return len(self.truth)


class About(Protocol):
    """What a part says of itself, trained or exported."""

    @property
    def part(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def temperature(self) -> float: ...
    @property
    def corpora(self) -> tuple[str, ...]: ...
    @property
    def preprocessing(self) -> Spec: ...


class TextPart:
    """The teacher."""

    def __init__(self, about: About, spec: TextSpec, tokenizer: Tokenizer, network: Network) -> None:
        self.about = about
        self._prompter = Prompter(spec.corrected(), tokenizer)
        self._network = network
        self.size = network.size
        self.vector = network.vector

    @classmethod
    def trained(cls, folder: Path) -> Self:
        """folder: of a run's text part. Raises TrainingError when it is missing or damaged."""
        about, network = networks.load(folder, Teacher, TeacherDimensions)
        spec = about.preprocessing
        if not isinstance(spec, TextSpec):
            raise ValueError(f"{folder} is no text part")
        return cls(about, spec, Tokenizer.from_file(str(folder / spec.tokenizer)), network)

    def encode(self, utterances: Sequence[Utterance], bf16: bool = False) -> Encodings:
        prompts = [self._prompter.encode(utterance.turns) for utterance in utterances]
        vectors = torch.zeros(len(prompts), self.size)
        for places in bucketed([len(prompt) for prompt in prompts], self._network.at_once):
            vectors[places] = self._network(self._prompter.batch([prompts[place] for place in places]), bf16)
        return _encodings(vectors, utterances, self.about.labels)

    def logits(self, vectors: Tensor) -> Tensor:
        """What the part itself reads off utterance vectors (n, d): (n, C), not calibrated."""
        return self._network.logits(vectors)


class AudioPart:
    """The audio student."""

    def __init__(self, about: About, spec: AudioSpec, network: Network) -> None:
        self.about = about
        self.spec = spec.corrected()
        self._features = AudioFeatures(self.spec)
        self._network = network
        self.size = network.size
        self.vector = network.vector

    @classmethod
    def trained(cls, folder: Path) -> Self:
        """folder: of a run's audio part. Raises TrainingError when it is missing or damaged."""
        about, network = networks.load(folder, AudioStudent, AudioDimensions)
        if not isinstance(about.preprocessing, AudioSpec):
            raise ValueError(f"{folder} is no audio part")
        return cls(about, about.preprocessing, network)

    def encode(self, clips: Sequence[Clip], bf16: bool = False) -> Encodings:
        """Clips too short to be heard are left out."""
        heard = [(clip, features) for clip in clips if (features := self._features.extract(clip.samples)) is not None]
        vectors = torch.zeros(len(heard), self.size)
        for places in bucketed([features.shape[-1] for _, features in heard], self._network.at_once):
            batch = self._features.batch([heard[place][1] for place in places])
            vectors[places] = self._network((batch.features, batch.mask), bf16)
        return _encodings(vectors, [clip.utterance for clip, _ in heard], self.about.labels)

    def logits(self, vectors: Tensor) -> Tensor:
        """What the part itself reads off utterance vectors (n, d): (n, C), not calibrated."""
        return self._network.logits(vectors)


class VisualPart:
    """The visual student."""

    def __init__(self, about: About, spec: VisualSpec, network: Network) -> None:
        self.about = about
        self.spec = spec.corrected()
        self._network = network
        self.size = network.size
        self.vector = network.vector

    @classmethod
    def trained(cls, folder: Path) -> Self:
        """folder: of a run's visual part. Raises TrainingError when it is missing or damaged."""
        about, network = networks.load(folder, VisualStudent, VisualDimensions)
        if not isinstance(about.preprocessing, VisualSpec):
            raise ValueError(f"{folder} is no visual part")
        return cls(about, about.preprocessing, network)

    def encode(self, stills: Stills, bf16: bool = False) -> Encodings:
        """Every face is an utterance of one frame."""
        vectors = torch.zeros(len(stills), self.size)
        at_once = self._network.at_once
        for start in range(0, len(stills), at_once):
            batch = pad([[picture] for picture in stills.pictures[start : start + at_once]], self.spec)
            vectors[start : start + at_once] = self._network(batch, bf16)
        return Encodings(vectors, stills.truth, digest=stills.digest)

    def watch(self, clips: Sequence[Footage], bf16: bool = False) -> Encodings:
        vectors = torch.zeros(len(clips), self.size)
        at_once = self._network.at_once
        for start in range(0, len(clips), at_once):
            batch = pad([list(clip.pictures()) for clip in clips[start : start + at_once]], self.spec)
            vectors[start : start + at_once] = self._network(batch, bf16)
        return _encodings(vectors, [clip.utterance for clip in clips], self.about.labels)

    def logits(self, vectors: Tensor) -> Tensor:
        """What the part itself reads off utterance vectors (n, d): (n, C), not calibrated."""
        return self._network.logits(vectors)


Part = TextPart | AudioPart | VisualPart


def _encodings(vectors: Tensor, utterances: Sequence[Utterance], labels: Sequence[str]) -> Encodings:
    truth = [labels.index(utterance.label_among(labels) or "") for utterance in utterances]
    ids = tuple(utterance.id for utterance in utterances)
    return Encodings(vectors, np.array(truth, np.int64), ids, None, grouping(utterances)[1], digest(utterances))
