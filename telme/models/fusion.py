"""Attention-based modality shifting fusion (ASF): the students shift the teacher's verdict, within a bound.

TelME, Yun et al., NAACL 2024 (arXiv 2401.12987), with the paper's symbols.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

SMALLEST = 1e-6  # keeps the ratio of lengths finite, as in the authors' code


@dataclass(frozen=True)
class FusionDimensions:
    """Everything needed to build the fusion, its weights excepted.

    text, audio, visual: lengths of the utterance vectors.
    labels: number C of emotions.
    heads: of the attention; a divisor of audio + visual.
    order: in which the students' vectors are joined.
    group: how many successive utterances pay attention to each other; 1: each to itself alone. The authors' code took
        every batch of 4 for one sequence, so their weights and scores want 4: offline, in the corpus's order.
    """

    text: int
    audio: int
    visual: int
    labels: int
    heads: int
    dropout: float
    order: tuple[Literal["audio", "visual"], Literal["audio", "visual"]] = ("audio", "visual")
    group: int = 1


class ASF(nn.Module):
    """Teacher's and students' utterance vectors -> logits.

    With F_T the text vector and x = [a ; v] the students', each utterance by itself:
        u = MHA(x, x, x) + x                    n = Dropout(LN(u))
        g = ReLU(W_hav [n ; F_T] + b)           gating vector
        H = g * (W_av n + b)                    displacement vector
        lam = min(beta ||F_T|| / ||H||, 1)      1 where ||H|| = 0
        Z = Dropout(LN(F_T + lam H))            logits = Linear(Z)
    So sound and picture move the text vector by at most beta of its length. Without either, H is 0. Without text,
    F_T = 0 and nothing is moved: such utterances belong to the students' own heads, not here.
    """

    def __init__(self, dimensions: FusionDimensions) -> None:
        """A fusion with random weights."""
        super().__init__()
        self.dimensions = dimensions
        text, joined = dimensions.text, dimensions.audio + dimensions.visual
        self.attention = nn.MultiheadAttention(joined, dimensions.heads, batch_first=True)
        self.joined_norm = nn.LayerNorm(joined)
        self.W_hav = nn.Linear(joined + text, text)
        self.W_av = nn.Linear(joined, text)
        self.norm = nn.LayerNorm(text)
        self.dropout = nn.Dropout(dimensions.dropout)
        self.classifier = nn.Linear(text, dimensions.labels)

    def forward(
        self,
        text_vector: Tensor,
        audio_vector: Tensor,
        visual_vector: Tensor,
        audio_present: Tensor,
        visual_present: Tensor,
        beta: Tensor,
    ) -> Tensor:
        """Fuse a batch of utterances; an item's result does not depend on others outside its group.

        text_vector, audio_vector, visual_vector: (B, d), each with its own d.
        audio_present, visual_present: (B,) float, 1 or 0. What a vector of a missing modality holds does not matter.
        beta: (B,), bound of the shift as a share of ||F_T||.
        Returns logits (B, C).
        """
        F_T = text_vector
        H = self.displacement(F_T, audio_vector, visual_vector, audio_present, visual_present)
        lam = shift_weight(F_T, H, beta)
        Z = self.dropout(self.norm(F_T + lam * H))
        logits: Tensor = self.classifier(Z)
        return logits

    def displacement(
        self, F_T: Tensor, audio: Tensor, visual: Tensor, audio_present: Tensor, visual_present: Tensor
    ) -> Tensor:
        """H (B, text), not yet bounded; 0 where sound and picture are missing."""
        vectors = {
            "audio": torch.where(audio_present[:, None] > 0, audio, 0.0),
            "visual": torch.where(visual_present[:, None] > 0, visual, 0.0),
        }
        x = torch.cat([vectors[name] for name in self.dimensions.order], dim=1)
        u = self._attended(x) + x
        n = self.dropout(self.joined_norm(u))
        g = torch.relu(self.W_hav(torch.cat([n, F_T], dim=1)))
        H = g * self.W_av(n)
        anything = torch.maximum(audio_present, visual_present)
        return torch.where(anything[:, None] > 0, H, 0.0)

    def _attended(self, x: Tensor) -> Tensor:
        """MHA(x, x, x) within each group of successive utterances, the last of which may be smaller: (B, joined)."""
        if self.dimensions.group > 1:
            groups = torch.split(x, self.dimensions.group)
            return torch.cat([self.attention(group, group, group, need_weights=False)[0] for group in groups])
        # A sequence of one: what is paid attention to lies within the utterance, never among its batch neighbours.
        sequence = x[:, None]
        attended: Tensor = self.attention(sequence, sequence, sequence, need_weights=False)[0][:, 0]
        return attended


def shift_weight(F_T: Tensor, H: Tensor, beta: Tensor) -> Tensor:
    """The paper's lam, (B, 1), in [0, 1], such that ||lam H|| <= beta ||F_T||; 1 where H is 0.

    F_T, H: (B, d). beta: (B,).
    """
    shift = torch.linalg.vector_norm(H, dim=1)
    bound = beta * torch.linalg.vector_norm(F_T, dim=1)
    lam = torch.where(shift > 0, (bound / (shift + SMALLEST)).clamp(max=1), 1.0)
    return lam[:, None]
