"""The audio student: hears an utterance and says what its speaker feels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, Data2VecAudioConfig, Data2VecAudioModel

from telme.models.data2vec import Data2VecEncoder
from telme.models.sources import SourceError, locate
from telme.models.whisper import WhisperEncoder
from telme.models.whisper_weights import MODEL_FILE, EncoderWeights

Pooling = Literal["mean", "mean_std", "first"]


@dataclass(frozen=True)
class WhisperDimensions:
    """A Whisper encoder, or its first layers; reads log-Mel frames."""

    mel_bins: int
    width: int
    layers: int
    heads: int
    family: Literal["whisper"] = "whisper"


@dataclass(frozen=True)
class Data2VecDimensions:
    """A data2vec audio encoder in transformers' terms; reads samples."""

    config: dict[str, Any]
    family: Literal["data2vec"] = "data2vec"


@dataclass(frozen=True)
class AudioDimensions:
    """Everything needed to build an audio student, its weights excepted.

    vector: length d of the utterance vector.
    labels: number C of emotions.
    pooling: how hidden states become one: their mean, mean and standard deviation, or the first one (the paper's).
    standardise: bring each pooled value to mean 0 and deviation 1 over the training data; a speech encoder's values
        differ in size by orders of magnitude, and the quiet ones tell emotions apart too.
    dropout: share of the pooled values, and of the vector's before the heads, dropped in training.
    corpus_labels: corpus -> number of its own labels, each with a head of its own that only training uses.
    """

    backbone: WhisperDimensions | Data2VecDimensions
    vector: int
    labels: int
    pooling: Pooling = "mean"
    standardise: bool = False
    dropout: float = 0.0
    corpus_labels: Mapping[str, int] = field(default_factory=dict)


class AudioStudent(nn.Module):
    """Speech encoder -> pooled hidden states -> Linear (utterance vector) -> Linear (logits)."""

    def __init__(self, dimensions: AudioDimensions) -> None:
        """A student with random weights."""
        super().__init__()
        self.dimensions = dimensions
        self.backbone = _encoder(dimensions.backbone)
        width = self.backbone.width * (2 if dimensions.pooling == "mean_std" else 1)
        self.standardise = nn.BatchNorm1d(width, affine=False) if dimensions.standardise else nn.Identity()
        self.vector = nn.Linear(width, dimensions.vector)
        self.dropout = nn.Dropout(dimensions.dropout)
        self.classifier = nn.Linear(dimensions.vector, dimensions.labels)
        self.corpus_classifiers = nn.ModuleDict(
            {corpus: nn.Linear(dimensions.vector, labels) for corpus, labels in dimensions.corpus_labels.items()}
        )

    @classmethod
    def pretrained(
        cls,
        source: str,
        vector: int,
        labels: int,
        *,
        layers: int | None = None,
        pooling: Pooling = "mean",
        standardise: bool = False,
        dropout: float = 0.0,
        corpus_labels: Mapping[str, int] | None = None,
    ) -> Self:
        """A student that starts from a pretrained encoder.

        source: a Whisper model converted for CTranslate2 (folder or `package:NAME/PATH`), or a data2vec audio model
        (name on the model hub, or folder).
        layers: keep this many of the encoder's first layers; None keeps all.
        Raises SourceError or WeightsError where the weights cannot be read.
        """
        backbone, state = _pretrained_encoder(locate(source), layers)
        student = cls(AudioDimensions(backbone, vector, labels, pooling, standardise, dropout, corpus_labels or {}))
        student.backbone.load_state_dict(state)
        return student

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Hear a batch of utterances, padded on the right; an item's result does not depend on the others.

        features: (B, mel_bins, T) or (B, T) samples, as `AudioFeatures` makes them.
        mask: (B, T) bool, True where `features` are real.
        Returns the utterance vectors (B, d) and the logits (B, C).
        """
        hidden, real = self.backbone(features, mask)
        pooled = self.standardise(_pool(hidden, real, self.dimensions.pooling))
        vector = self.vector(self.dropout(pooled))
        return vector, self.classifier(self.dropout(vector))

    def corpus_logits(self, corpus: str, vector: Tensor) -> Tensor:
        """Logits over a training corpus's own labels; vector: (B, d)."""
        logits: Tensor = self.corpus_classifiers[corpus](self.dropout(vector))
        return logits


def _encoder(dimensions: WhisperDimensions | Data2VecDimensions) -> WhisperEncoder | Data2VecEncoder:
    match dimensions:
        case WhisperDimensions(mel_bins, width, layers, heads):
            return WhisperEncoder(mel_bins, width, layers, heads)
        case Data2VecDimensions(config):
            return Data2VecEncoder(config)


def _pretrained_encoder(
    source: str, layers: int | None
) -> tuple[WhisperDimensions | Data2VecDimensions, dict[str, Tensor]]:
    if (Path(source) / MODEL_FILE).is_file():
        weights = EncoderWeights.read(Path(source))
        if layers is not None:
            weights = weights.first(layers)
        dimensions = WhisperDimensions(weights.mel_bins, weights.width, weights.layers, weights.heads)
        return dimensions, weights.state
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{source} is no Whisper model for faster-whisper, no folder of transformers and not to be had from the "
            "model hub; correct the name, or give a folder."
        ) from error
    if config.model_type != Data2VecAudioConfig.model_type:
        raise SourceError(f"{source} is a {config.model_type}; give a data2vec-audio or a Whisper model.")
    if layers is not None:
        config.num_hidden_layers = layers
    model = Data2VecAudioModel.from_pretrained(source, config=config, dtype=torch.float32)
    settings = model.config.to_diff_dict()
    settings.pop("_name_or_path", None)  # where the encoder lay on the training machine is nobody's business
    return Data2VecDimensions(settings), {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def _pool(hidden: Tensor, real: Tensor, pooling: Pooling) -> Tensor:
    """(B, T, width) hidden states, of which those under `real` (B, T) count -> (B, width), or twice that."""
    if pooling == "first":
        return hidden[:, 0]
    weights = real[..., None].to(hidden.dtype)
    count = weights.sum(dim=1).clamp_min(1.0)
    mean = (hidden * weights).sum(dim=1) / count
    if pooling == "mean":
        return mean
    variance = ((hidden - mean[:, None]) ** 2 * weights).sum(dim=1) / count
    return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)  # the constant keeps the gradient finite at 0
