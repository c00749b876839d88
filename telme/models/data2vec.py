"""data2vec's audio encoder (Baevski et al., 2022), with results that do not depend on padding."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Data2VecAudioConfig, Data2VecAudioModel


class Data2VecEncoder(nn.Module):
    """Samples at 16 kHz to hidden states, one per 20 ms.

    transformers' own forward lets padding into the stacked position convolutions: only their input is masked. Here
    the mask is applied before each of them, so a padded clip sees the same zeros as a clip alone.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """config: as `Data2VecAudioConfig` takes it."""
        super().__init__()
        self.model = Data2VecAudioModel(Data2VecAudioConfig(**config))
        self.width: int = self.model.config.hidden_size

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """features: (B, T) samples. mask: (B, T) bool, True where real.

        Returns hidden states (B, T', width) and their mask (B, T').
        """
        hidden, mask = self.until_last(self.model.feature_extractor(features).transpose(1, 2), mask)
        return self.model.encoder.layers[-1](hidden, attention_mask=_attend(hidden, mask)), mask

    def until_last(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the last layer reads, with the results of `forward`.

        frames: (B, T', channels), what the convolutions make of samples with the mask (B, T).
        """
        encoder = self.model.encoder
        hidden, _ = self.model.feature_projection(frames)
        mask = self._frame_mask(mask)
        keep = mask[..., None].to(hidden.dtype)
        hidden = hidden * keep
        positions = hidden
        for layer in encoder.pos_conv_embed.layers:
            positions = layer(positions.transpose(1, 2)).transpose(1, 2) * keep
        hidden = encoder.dropout(encoder.layer_norm(hidden + positions))
        attend = _attend(hidden, mask)
        for layer in encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=attend)
        return hidden, mask

    def _frame_mask(self, mask: Tensor) -> Tensor:
        """A frame is real where all samples under its convolutions are."""
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            mask = mask[:, kernel - 1 :: stride]
        return mask


def _attend(hidden: Tensor, mask: Tensor) -> Tensor:
    """What is added to the scores (B, 1, T', T') of attention: 0 for real frames, the least number for others."""
    hidden_frames = (~mask).to(hidden.dtype) * torch.finfo(hidden.dtype).min
    # Every query gets a row of its own: ONNX Runtime's attention does not broadcast the mask over queries.
    return hidden_frames[:, None, None].expand(-1, -1, mask.shape[1], -1)
