"""What the trained teacher and students make of a corpus's utterances: the fusion's raw material."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from telme.bundle import AudioSpec, TextSpec, VisualSpec
from telme.corpora.records import Utterance
from telme.corpora.waveforms import Clip
from telme.features.audio import AudioFeatures
from telme.features.text import Prompter
from telme.features.video import pad
from telme.labels import MELD
from telme.models.audio import AudioDimensions, AudioStudent
from telme.models.teacher import Teacher, TeacherDimensions
from telme.models.visual import VisualDimensions, VisualStudent
from telme.training import checkpoint
from telme.training.teacher import bucketed
from telme.training.visual import Stills

_AT_ONCE = 32


@dataclass(frozen=True)
class Encodings:
    """Utterances of one modality. vectors: (n, d). truth: (n,), indices into MELD's labels."""

    vectors: Tensor
    truth: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.truth)


class TextPart:
    """The trained teacher of a run."""

    def __init__(self, folder: Path) -> None:
        """folder: of the text part. Raises TrainingError when it is missing or damaged."""
        self.about, self._model = checkpoint.load(folder, Teacher, TeacherDimensions)
        spec = self.about.preprocessing
        if not isinstance(spec, TextSpec):
            raise ValueError(f"{folder} is no text part")
        self._prompter = Prompter(spec, Tokenizer.from_file(str(folder / spec.tokenizer)))

    @torch.inference_mode()
    def encode(self, utterances: Sequence[Utterance]) -> Encodings:
        prompts = [self._prompter.encode(utterance.turns) for utterance in utterances]
        vectors = torch.zeros(len(prompts), self._model.dimensions.vector)
        for places in bucketed([len(prompt) for prompt in prompts], _AT_ONCE):
            input_ids, attention_mask = self._prompter.batch([prompts[place] for place in places])
            vectors[places], _ = self._model(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        return Encodings(vectors, _truth(utterances))


class AudioPart:
    """The trained audio student of a run."""

    def __init__(self, folder: Path) -> None:
        """folder: of the audio part. Raises TrainingError when it is missing or damaged."""
        self.about, self._model = checkpoint.load(folder, AudioStudent, AudioDimensions)
        spec = self.about.preprocessing
        if not isinstance(spec, AudioSpec):
            raise ValueError(f"{folder} is no audio part")
        self.spec = spec
        self._features = AudioFeatures(spec)

    @torch.inference_mode()
    def encode(self, clips: Sequence[Clip]) -> Encodings:
        """Clips too short to be heard are left out."""
        heard = [(clip, features) for clip in clips if (features := self._features.extract(clip.samples)) is not None]
        vectors = torch.zeros(len(heard), self._model.dimensions.vector)
        for places in bucketed([features.shape[-1] for _, features in heard], _AT_ONCE):
            batch = self._features.batch([heard[place][1] for place in places])
            vectors[places], _ = self._model(torch.from_numpy(batch.features), torch.from_numpy(batch.mask))
        return Encodings(vectors, _truth([clip.utterance for clip, _ in heard]))


class VisualPart:
    """The trained visual student of a run."""

    def __init__(self, folder: Path) -> None:
        """folder: of the visual part. Raises TrainingError when it is missing or damaged."""
        self.about, self._model = checkpoint.load(folder, VisualStudent, VisualDimensions)
        spec = self.about.preprocessing
        if not isinstance(spec, VisualSpec):
            raise ValueError(f"{folder} is no visual part")
        self.spec = spec

    @torch.inference_mode()
    def encode(self, stills: Stills) -> Encodings:
        """Every face is an utterance of one frame."""
        vectors = []
        for start in range(0, len(stills), _AT_ONCE):
            batch = pad([[picture] for picture in stills.pictures[start : start + _AT_ONCE]], self.spec)
            vectors.append(self._model(torch.from_numpy(batch.frames), torch.from_numpy(batch.mask))[0])
        return Encodings(torch.cat(vectors), stills.truth)


def _truth(utterances: Sequence[Utterance]) -> npt.NDArray[np.int64]:
    return np.array([MELD.index(utterance.meld_label or "") for utterance in utterances], np.int64)
