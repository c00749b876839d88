"""The teacher: a text encoder that reads the dialogue and says what the last speaker feels."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel


@dataclass(frozen=True)
class TeacherDimensions:
    """Everything needed to build a teacher, its weights excepted.

    backbone: the text encoder's configuration in transformers' terms, `model_type` included.
    vector: length d of the utterance vector.
    labels: number C of emotions.
    """

    backbone: dict[str, Any]
    vector: int
    labels: int


class Teacher(nn.Module):
    """Text encoder -> hidden state of the mask token -> Linear (F_T) -> Linear (logits)."""

    def __init__(self, dimensions: TeacherDimensions) -> None:
        """A teacher with random weights."""
        super().__init__()
        self.dimensions = dimensions
        self.backbone: PreTrainedModel = AutoModel.from_config(AutoConfig.for_model(**dimensions.backbone))
        self.backbone.pooler = None  # reads the first token, which nobody asks for
        self.vector = nn.Linear(self.backbone.config.hidden_size, dimensions.vector)
        self.classifier = nn.Linear(dimensions.vector, dimensions.labels)

    @classmethod
    def pretrained(cls, source: str, vocabulary: int, vector: int, labels: int) -> Self:
        """A teacher that starts from a pretrained encoder.

        source: name on the model hub, or a local folder.
        vocabulary: size of the tokenizer, speaker tokens included; new tokens get embeddings like the others' mean.
        """
        backbone = AutoModel.from_pretrained(source, dtype=torch.float32)
        backbone.resize_token_embeddings(vocabulary)
        settings = backbone.config.to_diff_dict()
        settings.pop("_name_or_path", None)  # where the encoder lay on the training machine is nobody's business
        teacher = cls(TeacherDimensions(settings, vector, labels))
        weights = {name: tensor for name, tensor in backbone.state_dict().items() if not name.startswith("pooler.")}
        teacher.backbone.load_state_dict(weights)
        return teacher

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Read a batch of prompts, padded on the right.

        input_ids, attention_mask: (B, L) int64.
        Returns the utterance vectors F_T (B, d) and the logits (B, C).
        """
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (B, L, H)
        last = attention_mask.sum(dim=1) - 1
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        vector = self.vector(hidden[rows, last])
        return vector, self.classifier(vector)
