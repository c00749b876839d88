"""The encoder of Whisper (Radford et al., 2022) for clips of any length up to 30 s."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POSITIONS = 1500  # 30 s at 20 ms
DOWNSAMPLING = 2


class WhisperEncoder(nn.Module):
    """Log-Mel frames, one per 10 ms, to hidden states, one per 20 ms.

    Padding has no influence: padded frames are zero before each convolution, as the convolutions' own padding is,
    and no frame attends to them.
    """

    def __init__(self, mel_bins: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.conv1 = nn.Conv1d(mel_bins, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, padding=1, stride=DOWNSAMPLING)
        self.layers = nn.ModuleList([EncoderLayer(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(POSITIONS, width), persistent=False)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """features: (B, mel_bins, T) with T <= 3000. mask: (B, T) bool, True where real.

        Returns the last hidden states (B, T', width) and their mask (B, T'), T' = ceil(T / 2).
        """
        half = mask[:, ::DOWNSAMPLING]
        x = F.gelu(self.conv1(features * mask[:, None]))
        x = F.gelu(self.conv2(x * mask[:, None])).transpose(1, 2)
        x = x + self.positions[: x.shape[1]]
        # Every query gets a row of its own: ONNX Runtime's attention does not broadcast the mask over queries.
        attend = half[:, None, None, :].expand(-1, -1, x.shape[1], -1)
        for layer in self.layers:
            x = layer(x, attend)
        return self.norm(x), half


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a layer norm and with a residual path around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)  # Whisper's key has no bias: its third stays zero
        self.attention_output = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, attend: Tensor) -> Tensor:
        """x: (B, T, width). attend: (B, 1, T, T) bool, True where a query may look at a key."""
        projected = self.query_key_value(self.attention_norm(x))
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        x = x + self.attention_output(mixed.transpose(1, 2).flatten(2))
        y: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return y


def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's position encodings (length, width): sines in the first half, cosines in the second."""
    scales = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(length)[:, None] * scales
    return torch.cat([angles.sin(), angles.cos()], dim=1)
