"""The visual student: what an utterance's pictures show."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, TimesformerModel

from telme.models.face_cnn import FaceCNN
from telme.models.sources import locate, reading

FACE_CNN = "face_cnn"


@dataclass(frozen=True)
class VisualDimensions:
    """Everything needed to build a visual student, its weights excepted.

    backbone: `model_type` and that model's settings: `face_cnn` with the arguments of FaceCNN, or `timesformer` in
        transformers' terms.
    vector: length d of the utterance vector.
    labels: number C of emotions.
    """

    backbone: dict[str, Any]
    vector: int
    labels: int


class VisualStudent(nn.Module):
    """Frames -> encoder -> Linear (utterance vector) -> Linear (logits)."""

    def __init__(self, dimensions: VisualDimensions) -> None:
        """A student with random weights.

        Raises ValueError or TypeError where `dimensions.backbone` describes no network.
        """
        super().__init__()
        self.dimensions = dimensions
        settings = dict(dimensions.backbone)
        self.encoder: FrameMean | Clip
        if settings["model_type"] == FACE_CNN:
            del settings["model_type"]
            self.encoder = FrameMean(FaceCNN(**settings))
        else:
            self.encoder = Clip(TimesformerModel(AutoConfig.for_model(**settings)))
        self.vector = nn.Linear(self.encoder.width, dimensions.vector)
        self.classifier = nn.Linear(dimensions.vector, dimensions.labels)

    @classmethod
    def pretrained(cls, source: str, vector: int, labels: int) -> Self:
        """A student that starts from a pretrained TimeSformer.

        source: its name on the model hub, a local folder, or `package:NAME/PATH`.
        Raises SourceError where it cannot be read.
        """
        with reading(source):
            backbone = TimesformerModel.from_pretrained(locate(source), dtype=torch.float32)
        settings = backbone.config.to_diff_dict()
        settings.pop("_name_or_path", None)  # where the encoder lay on the training machine is nobody's business
        student = cls(VisualDimensions(settings, vector, labels))
        student.encoder = Clip(backbone)
        return student

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Look at a batch of utterances.

        frames: (B, N, channels, H, W) float, normalised. mask: (B, N) float, 1 for frames and 0 for padding, which
            comes last.
        Returns the utterance vectors (B, d) and the logits (B, C).
        """
        vector = self.vector(self.encoder(frames, mask))
        return vector, self.classifier(vector)


class FrameMean(nn.Module):
    """Looks at each frame by itself; an utterance is the mean of its frames."""

    def __init__(self, network: FaceCNN) -> None:
        super().__init__()
        self.network = network
        self.width = network.width

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """frames: (B, N, channels, H, W). mask: (B, N). Returns (B, width), zero where no frame is real."""
        seen: Tensor = self.network(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])  # (B, N, width)
        weight = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return (seen * weight[:, :, None]).sum(dim=1)


class Clip(nn.Module):
    """Looks at all frames together (TimeSformer, Bertasius et al., ICML 2021, arXiv 2102.05095)."""

    def __init__(self, network: TimesformerModel) -> None:
        super().__init__()
        self.network = network
        self.width: int = network.config.hidden_size
        self.frames: int = network.config.num_frames

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """frames: (B, N, channels, H, W). mask: (B, N). Returns the class token's last state (B, width)."""
        hidden: Tensor = self.network(self.repeated(frames, mask)).last_hidden_state
        return hidden[:, 0]

    def repeated(self, frames: Tensor, mask: Tensor) -> Tensor:
        """The network wants a fixed number of frames: the last real one is repeated to reach it.

        Returns (B, frames, channels, H, W).
        """
        last = mask.sum(dim=1, keepdim=True).long().clamp(min=1) - 1  # (B, 1)
        places = torch.minimum(torch.arange(self.frames, device=frames.device), last)  # (B, frames)
        rows = torch.arange(frames.shape[0], device=frames.device)[:, None]
        return frames[rows, places]
