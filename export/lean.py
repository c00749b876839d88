"""The same function with less arithmetic: what an export computes in place of a module, up to the order of sums.

Four things are left out, and nothing is approximated:

- The last layer of an encoder of which one row is read computes that row alone, and neither keys nor values of the
  others: q . (W_k x + b) is (W_k^T q) . x plus a constant, which softmax ignores, and what attention mixes may be mixed
  before W_v.
- TimeSformer's projection after temporal attention and the dense layer behind it are one linear map.
- The copies that TimeSformer makes to bring pictures and patches into different orders: here each picture keeps its
  class token in front of its patches throughout.
- The copies that data2vec makes between convolutions, which want frames last, and the layer norms behind them, which
  want channels last: a convolution over sound is a product of each frame's inputs, side by side, and one matrix.
"""

from math import sqrt
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertModel, RobertaModel
from transformers.models.data2vec.modeling_data2vec_audio import Data2VecAudioConvLayer
from transformers.models.timesformer.modeling_timesformer import TimesformerLayer

from telme.models.audio import AudioStudent
from telme.models.data2vec import Data2VecEncoder
from telme.models.teacher import Teacher
from telme.models.visual import Clip, VisualStudent


def lean(module: nn.Module) -> nn.Module:
    """A module with the same inputs and outputs that shares its weights, or `module` itself where nothing is saved."""
    match module:
        case Teacher(backbone=BertModel() | RobertaModel()):
            return LeanTeacher(module)
        case AudioStudent(backbone=Data2VecEncoder()) if module.dimensions.pooling == "first":
            return LeanAudioStudent(module)
        case VisualStudent(encoder=Clip() as clip) if _divided(clip):
            return LeanVisualStudent(module, LeanClip(clip))
        case _:
            return module


def _divided(clip: Clip) -> bool:
    return bool(clip.network.config.attention_type == "divided_space_time")


class OneRowAttention(nn.Module):
    """Multi-head self-attention that answers for one row of each sequence."""

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = query
        self.key_weight = nn.Parameter(torch.unflatten(key.weight.detach(), 0, (heads, -1)), requires_grad=False)
        transposed = torch.unflatten(value.weight.detach(), 0, (heads, -1)).transpose(1, 2).contiguous()
        self.value_weight = nn.Parameter(transposed, requires_grad=False)
        self.value_bias = value.bias

    def forward(self, row: Tensor, rows: Tensor, ignored: Tensor | None = None) -> Tensor:
        """row: (B, d), the one that asks. rows: (B, L, d). ignored: (B, 1, 1, L), added to the scores.

        Returns (B, d).
        """
        query = self.query(row).unflatten(-1, (self.heads, 1, -1))  # (B, heads, 1, d / heads)
        asked = query @ self.key_weight / sqrt(query.shape[-1])  # (B, heads, 1, d)
        scores = asked @ rows[:, None].transpose(2, 3)  # (B, heads, 1, L)
        if ignored is not None:
            scores = scores + ignored
        mixed = scores.softmax(dim=-1) @ rows[:, None]  # (B, heads, 1, d)
        answer: Tensor = (mixed @ self.value_weight).flatten(1) + self.value_bias
        return answer


class LeanTeacher(nn.Module):
    """A teacher on BERT or RoBERTa whose last layer computes the mask token alone."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.backbone = cast(BertModel | RobertaModel, teacher.backbone)
        self.vector = teacher.vector
        self.classifier = teacher.classifier
        attention = self.backbone.encoder.layer[-1].attention.self
        self.attention = OneRowAttention(attention.query, attention.key, attention.value, attention.num_attention_heads)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """As Teacher.forward."""
        *layers, last = self.backbone.encoder.layer
        hidden = self.backbone.embeddings(input_ids=input_ids)
        lowest = torch.finfo(hidden.dtype).min
        ignored = (1 - attention_mask[:, None, None].to(hidden.dtype)) * lowest  # (B, 1, 1, L)
        # Every query gets a row of its own: ONNX Runtime's attention does not broadcast the mask over queries.
        everywhere = ignored.expand(-1, -1, hidden.shape[1], -1)
        for layer in layers:
            hidden = layer(hidden, everywhere)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        asked = hidden[rows, attention_mask.sum(dim=1) - 1]
        mixed = last.attention.output(self.attention(asked, hidden, ignored), asked)
        vector = self.vector(last.output(last.intermediate(mixed), mixed))
        return vector, self.classifier(vector)


class LeanAudioStudent(nn.Module):
    """A student on data2vec whose last layer computes the first frame alone, which is the one read."""

    def __init__(self, student: AudioStudent) -> None:
        super().__init__()
        self.backbone = cast(Data2VecEncoder, student.backbone)
        layers = self.backbone.model.feature_extractor.conv_layers
        self.convolutions = nn.Sequential(*(LeanConvolution(layer) for layer in layers))
        self.standardise = student.standardise
        self.vector = student.vector
        self.classifier = student.classifier
        attention = self.backbone.model.encoder.layers[-1].attention
        self.attention = OneRowAttention(attention.q_proj, attention.k_proj, attention.v_proj, attention.num_heads)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As AudioStudent.forward."""
        last = self.backbone.model.encoder.layers[-1]
        hidden, real = self.backbone.until_last(self.convolutions(features[..., None]), mask)
        ignored = (~real[:, None, None]).to(hidden.dtype) * torch.finfo(hidden.dtype).min
        first = hidden[:, 0]
        mixed = last.layer_norm(first + last.attention.out_proj(self.attention(first, hidden, ignored)))
        vector = self.vector(self.standardise(last.final_layer_norm(mixed + last.feed_forward(mixed))))
        return vector, self.classifier(vector)


class LeanConvolution(nn.Module):
    """One of data2vec's convolutions over sound, with what is behind it."""

    def __init__(self, layer: Data2VecAudioConvLayer) -> None:
        super().__init__()
        (self.kernel,), (self.stride,) = layer.conv.kernel_size, layer.conv.stride
        self.product = _linear(layer.conv.weight.transpose(1, 2).flatten(1), layer.conv.bias)
        self.norm = layer.layer_norm
        self.activation = layer.activation

    def forward(self, rows: Tensor) -> Tensor:
        """rows: (B, T, channels). Returns (B, (T - kernel) // stride + 1, channels of the next)."""
        ends = [*range(1 - self.kernel, 0), rows.shape[1]]
        frames = torch.cat([rows[:, start : end : self.stride] for start, end in enumerate(ends)], dim=-1)
        answer: Tensor = self.activation(self.norm(self.product(frames)))
        return answer


class LeanVisualStudent(nn.Module):
    """A visual student with another encoder in its place."""

    def __init__(self, student: VisualStudent, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.vector = student.vector
        self.classifier = student.classifier

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As VisualStudent.forward."""
        vector = self.vector(self.encoder(frames, mask))
        return vector, self.classifier(vector)


class LeanClip(nn.Module):
    """TimeSformer with divided attention, read at its class token. N patches, T pictures, R = N + 1 rows each.

    Rows stay in three dimensions, (B T, R, d): with four, OpenVINO fuses neither a layer norm nor what is behind a
    linear layer.
    """

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip
        embeddings = clip.network.embeddings
        self.patches = embeddings.patch_embeddings.projection
        position, time = embeddings.position_embeddings.detach(), embeddings.time_embeddings.detach()
        self.class_row = nn.Parameter(embeddings.cls_token.detach() + position[:, :1], requires_grad=False)
        places = position[:, 1:] + time.transpose(0, 1)  # (T, N, d)
        self.places = nn.Parameter(places, requires_grad=False)
        *layers, last = clip.network.encoder.layer
        self.layers = nn.ModuleList([LeanLayer(layer) for layer in layers])
        self.last = LeanLastLayer(last)
        self.norm = clip.network.layernorm

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """As Clip.forward."""
        pictures = self.clip.repeated(frames, mask)  # (B, T, channels, H, W)
        count = pictures.shape[1]
        patches = self.patches(pictures.flatten(0, 1)).flatten(2).transpose(1, 2)  # (B T, N, d)
        placed = (patches.unflatten(0, (-1, count)) + self.places).flatten(0, 1)
        x = torch.cat([self.class_row.expand(placed.shape[0], -1, -1), placed], dim=1)
        for layer in self.layers:
            x = layer(x, count)
        return cast(Tensor, self.norm(self.last(x, count)))


class _Temporal(nn.Module):
    """Each patch attends to itself in the other pictures; class tokens are left as they are.

    They are joined to the patches and not multiplied by zero: in int8, OpenVINO multiplies rows after a linear layer
    wrongly where the zero of what the layer reads is the middle one of its 256 levels.
    """

    def __init__(self, layer: TimesformerLayer) -> None:
        super().__init__()
        self.norm = layer.temporal_layernorm
        attention = layer.temporal_attention
        self.query, self.key, self.value = _thirds(attention.attention.qkv)
        self.heads: int = attention.attention.num_heads
        self.output = _product(layer.temporal_dense, attention.output.dense)

    def forward(self, x: Tensor, count: int) -> Tensor:
        """x: (B T, R, d). count: T. Returns x plus what the patches attend to."""
        patches = x[:, 1:]
        normed = self.norm(patches)
        query, key, value = (
            torch.unflatten(torch.unflatten(project(normed), -1, (self.heads, -1)), 0, (-1, count))
            .permute(0, 2, 3, 1, 4)
            .flatten(0, 1)
            for project in (self.query, self.key, self.value)
        )  # (B N, heads, T, d / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = torch.unflatten(mixed, 0, (-1, patches.shape[1])).permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(2)
        return torch.cat([x[:, :1], patches + self.output(mixed)], dim=1)


class LeanLayer(nn.Module):
    """A whole layer: temporal attention, spatial attention, feed-forward."""

    def __init__(self, layer: TimesformerLayer) -> None:
        super().__init__()
        self.temporal = _Temporal(layer)
        self.spatial_norm = layer.layernorm_before
        self.query, self.key, self.value = _thirds(layer.attention.attention.qkv)
        self.heads: int = layer.attention.attention.num_heads
        self.output = layer.attention.output.dense
        self.feed_forward_norm = layer.layernorm_after
        self.feed_forward = nn.Sequential(layer.intermediate, layer.output.dense)

    def forward(self, x: Tensor, count: int) -> Tensor:
        """x: (B T, R, d), where all of an item's class tokens are equal. count: T. Returns the same."""
        x = self.temporal(x, count)
        normed = self.spatial_norm(x)
        query, key, value = (
            torch.unflatten(project(normed), -1, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )  # (B T, heads, R, d / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        found = self.output(mixed.transpose(1, 2).flatten(2))  # (B T, R, d)
        of_class = _averaged(found[:, :1], count)[:, None].expand(-1, count, -1, -1).flatten(0, 1)
        x = x + torch.cat([of_class, found[:, 1:]], dim=1)
        return x + cast(Tensor, self.feed_forward(self.feed_forward_norm(x)))


class LeanLastLayer(nn.Module):
    """The last layer, which computes the class token alone."""

    def __init__(self, layer: TimesformerLayer) -> None:
        super().__init__()
        self.temporal = _Temporal(layer)
        self.spatial_norm = layer.layernorm_before
        spatial = layer.attention.attention
        self.attention = OneRowAttention(*_thirds(spatial.qkv), spatial.num_heads)
        self.output = layer.attention.output.dense
        self.feed_forward_norm = layer.layernorm_after
        self.feed_forward = nn.Sequential(layer.intermediate, layer.output.dense)

    def forward(self, x: Tensor, count: int) -> Tensor:
        """x: (B T, R, d). count: T. Returns the class tokens (B, d)."""
        of_class = torch.unflatten(x, 0, (-1, count))[:, 0, 0]
        rows = self.spatial_norm(self.temporal(x, count))
        of_class = of_class + self.output(_averaged(self.attention(rows[:, 0], rows), count))
        answer: Tensor = of_class + self.feed_forward(self.feed_forward_norm(of_class))
        return answer


def _averaged(x: Tensor, count: int) -> Tensor:
    """(B T, ...) -> (B, ...), the mean over T pictures."""
    return torch.unflatten(x, 0, (-1, count)).mean(dim=1)


def _thirds(joined: nn.Linear) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Query, key and value of a layer that computes all three."""
    query, key, value = (
        _linear(weight, bias) for weight, bias in zip(joined.weight.chunk(3), joined.bias.chunk(3), strict=True)
    )
    return query, key, value


def _product(second: nn.Linear, first: nn.Linear) -> nn.Linear:
    """second(first(x)) as one layer."""
    wide = [tensor.detach().double() for tensor in (second.weight, second.bias, first.weight, first.bias)]
    weight, bias, inner, offset = wide
    return _linear((weight @ inner).float(), (weight @ offset + bias).float())


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer
