"""Clips of speech -> batches for the audio student."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from telme.corpora.waveforms import Clip
from telme.features.audio import AudioFeatures
from telme.labels import MELD
from telme.training.augment_audio import SpeechAugmenter
from telme.training.bucketing import bucketed
from telme.training.distillation import Answer

Float32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NO_LABEL = -100  # what cross-entropy leaves out


class Batch(NamedTuple):
    """Utterances as the student hears them, and what it is to say.

    features, mask: as `AudioFeatures.batch` makes them.
    truth: (B,) indices into the run's labels, or NO_LABEL.
    own_truth: corpus -> (B,) indices into its own labels, or NO_LABEL.
    taught: (M,) rows of the utterances that the teacher has read, M from 0 to B.
    teacher_vectors, teacher_logits: (M, d) and (M, C), what it says of them.
    """

    features: Tensor
    mask: Tensor
    truth: Tensor
    own_truth: dict[str, Tensor]
    taught: Tensor
    teacher_vectors: Tensor
    teacher_logits: Tensor


class Collator:
    """Puts clips and their features side by side, with the labels and the teacher's answers."""

    def __init__(
        self,
        features: AudioFeatures,
        own_labels: Mapping[str, Sequence[str]],
        answers: Mapping[str, Answer],
        labels: Sequence[str] = MELD,
    ) -> None:
        """own_labels: corpus -> its labels, for those that have a head of their own.

        answers: the teacher's, by utterance id; who has none learns from the labels alone.
        labels: of the run.
        """
        self.features = features
        self._own_labels = own_labels
        self._answers = answers
        self._labels = labels

    def __call__(self, clips: Sequence[Clip], features: Sequence[Float32]) -> Batch:
        inputs = self.features.batch(features)
        answered = [self._answers.get(clip.utterance.id) for clip in clips]
        taught = [answer for answer in answered if answer is not None]
        return Batch(
            features=torch.from_numpy(inputs.features),
            mask=torch.from_numpy(inputs.mask),
            truth=torch.from_numpy(truth(clips, self._labels)),
            own_truth={name: torch.from_numpy(own_truth(clips, name, of)) for name, of in self._own_labels.items()},
            taught=torch.tensor([row for row, answer in enumerate(answered) if answer is not None], dtype=torch.long),
            teacher_vectors=torch.stack([answer.vector for answer in taught]) if taught else torch.empty(0),
            teacher_logits=torch.stack([answer.logits for answer in taught]) if taught else torch.empty(0),
        )


class TrainingBatches:
    """One epoch of clips in random order, varied as they are asked for; those of a batch are about equally long."""

    def __init__(
        self, clips: Sequence[Clip], size: int, collator: Collator, augmenter: SpeechAugmenter | None, seed: int
    ) -> None:
        self._clips = clips
        self._collator = collator
        self._augmenter = augmenter
        self._seed = seed
        self._random = np.random.default_rng(seed)
        order = self._random.permutation(len(clips))
        batches = bucketed([len(clips[item].samples) for item in order], size)
        self._batches = [order[batch] for batch in batches if len(batch) > 1]  # one clip alone has no statistics
        self._random.shuffle(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return self._made(self._batches, self._random)

    def share(self, number: int, count: int) -> Iterator[Batch]:
        return self._made(self._batches[number::count], np.random.default_rng((self._seed, number)))

    def _made(self, batches: Sequence[Ints], random: np.random.Generator) -> Iterator[Batch]:
        for batch in batches:
            clips = [self._clips[item] for item in batch]
            yield self._collator(clips, [self._heard(clip, random) for clip in clips])

    def _heard(self, clip: Clip, random: np.random.Generator) -> Float32:
        extract = self._collator.features.extract
        if self._augmenter is None:
            return plain_features(self._collator.features, clip)
        features = extract(self._augmenter(clip.samples, random))
        if features is None:  # cropped and sped up until nothing was left
            features = plain_features(self._collator.features, clip)
        if features.ndim == 1:
            return features
        return self._augmenter.mask_features(features, random)


def plain_features(extractor: AudioFeatures, clip: Clip) -> Float32:
    """Features of a clip as it is. Raises ValueError where it is too short for any."""
    features = extractor.extract(clip.samples)
    if features is None:
        raise ValueError(f"{clip.utterance.id} is shorter than {extractor.spec.min_s:g} s")
    return features


def truth(clips: Sequence[Clip], labels: Sequence[str]) -> Ints:
    """Each clip's place among `labels`, or NO_LABEL: (N,)."""
    found = [clip.utterance.label_among(labels) for clip in clips]
    return np.array([NO_LABEL if label is None else labels.index(label) for label in found], np.int64)


def own_truth(clips: Sequence[Clip], corpus: str, labels: Sequence[str]) -> Ints:
    """Each clip's place among the labels of its corpus, or NO_LABEL where it comes from another: (N,)."""
    places = [labels.index(clip.utterance.label) if clip.corpus == corpus else NO_LABEL for clip in clips]
    return np.array(places, np.int64)


def label_weights(truth: Ints, classes: int = len(MELD)) -> Float32:
    """Weights (C,) that give every label the same sum, with mean 1 over the clips; 1 for a label that is absent."""
    counts = np.bincount(truth[truth != NO_LABEL], minlength=classes)
    present = np.count_nonzero(counts)
    weights = np.divide(counts.sum(), counts * present, out=np.ones(classes), where=counts > 0)
    return np.asarray(weights, np.float32)
