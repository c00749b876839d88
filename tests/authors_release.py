"""The TelME authors' release in miniature: their four models written anew, with random weights, saved as they save.

Attribute names are theirs, since the files' tensor names come from them. The forward passes say, in another way than
telme.models, what their code computes: the encoders as transformers runs them, and the fusion in NumPy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    TimesformerConfig,
    TimesformerModel,
)

from export import cli
from export.releases import AUDIO, RELEASES, VISUAL, Release
from telme.models.audio import AudioDimensions, Data2VecDimensions
from telme.models.fusion import FusionDimensions
from telme.models.teacher import TeacherDimensions
from telme.models.visual import VisualDimensions

VECTOR = 16
ROBERTA = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
DATA2VEC = {
    "hidden_size": VECTOR,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embedding_groups": 4,
    "num_conv_pos_embeddings": 2,
    "conv_pos_kernel_size": 5,
}
TIMESFORMER = {
    "hidden_size": VECTOR,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "num_frames": 8,
}
Array = npt.NDArray[np.float64]


class TeacherModel(nn.Module):
    def __init__(self, labels: int, vocabulary: int) -> None:
        super().__init__()
        self.text_model = RobertaModel(RobertaConfig(vocab_size=vocabulary, **ROBERTA))
        self.W = nn.Linear(ROBERTA["hidden_size"], VECTOR)
        self.classifier = nn.Linear(VECTOR, labels)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        vector = self.W(self.text_model(ids, mask).last_hidden_state[:, -1])  # prompts are padded on the left
        return vector, self.classifier(vector)


class StudentModel(nn.Module):
    def __init__(self, labels: int, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.W = nn.Linear(VECTOR, labels)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        vector = self.model(inputs).last_hidden_state[:, 0]
        return vector, self.W(vector)


class FusionModel(nn.Module):
    """Holds the tensors; `fused` computes."""

    def __init__(self, labels: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(2 * VECTOR, heads)
        self.W_hav = nn.Linear(3 * VECTOR, VECTOR)
        self.W_av = nn.Linear(2 * VECTOR, VECTOR)
        self.LayerNorm = nn.LayerNorm(VECTOR)
        self.AV_LayerNorm = nn.LayerNorm(2 * VECTOR)
        self.W = nn.Linear(VECTOR, labels)


@dataclass(frozen=True)
class Miniature:
    """Their models, and what an import is told of them."""

    teacher: TeacherModel
    audio: StudentModel
    video: StudentModel
    fusion: FusionModel
    release: Release

    @classmethod
    def make(cls, dataset: str, vocabulary: int) -> Self:
        torch.manual_seed(0)
        full = RELEASES[dataset]
        labels, heads = len(full.labels), 4  # 3 heads do not divide a vector of 32
        parts = (
            TeacherModel(labels, vocabulary),
            StudentModel(labels, Data2VecAudioModel(Data2VecAudioConfig(**DATA2VEC))),
            StudentModel(labels, TimesformerModel(TimesformerConfig(**TIMESFORMER))),
            FusionModel(labels, heads),
        )
        for part in parts:
            for parameter in part.parameters():  # biases and norms too: none of them may be forgotten
                nn.init.normal_(parameter, mean=0.05, std=0.3)
        release = replace(
            full,
            text=TeacherDimensions({"model_type": "roberta", "vocab_size": vocabulary, **ROBERTA}, VECTOR, labels),
            audio=AudioDimensions(Data2VecDimensions(DATA2VEC), VECTOR, labels, pooling="first"),
            visual=VisualDimensions({"model_type": "timesformer", **TIMESFORMER}, VECTOR, labels),
            fusion=FusionDimensions(
                VECTOR, VECTOR, VECTOR, labels, heads, dropout=0.2, order=full.fusion.order, group=full.fusion.group
            ),
            audio_spec=AUDIO.model_copy(update={"max_s": 0.05}),
            visual_spec=VISUAL.model_copy(update={"size_px": 32}),
        )
        return cls(*(part.eval() for part in parts), release)

    def save(self, folder: Path) -> Path:
        """Write the four files as `torch.save(model.state_dict(), …)` of the authors' versions does."""
        positions = torch.arange(ROBERTA["max_position_embeddings"])[None]
        states = {
            "teacher.bin": {"text_model.embeddings.position_ids": positions, **self.teacher.state_dict()},
            "student_audio/total_student.bin": self.audio.state_dict(),
            "student_video/total_student.bin": self.video.state_dict(),
            "total_fusion.bin": self.fusion.state_dict(),
        }
        for file, state in states.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, folder / file)
        return folder

    def fused(self, text: Array, first: Array, second: Array) -> Array:
        """Their ASF of successive utterances (B, d) each, as their loader serves them: four at a time, in order."""
        pieces = [slice(start, start + 4) for start in range(0, len(text), 4)]
        return np.concatenate([self._fused_batch(text[at], first[at], second[at]) for at in pieces])

    def _fused_batch(self, text: Array, first: Array, second: Array) -> Array:
        p = {name: value.detach().double().numpy() for name, value in self.fusion.named_parameters()}
        x = np.concatenate([first, second], axis=1)
        projected = x @ p["multihead_attn.in_proj_weight"].T + p["multihead_attn.in_proj_bias"]
        q, k, v = np.split(projected, 3, axis=1)
        heads = []
        for columns in np.split(np.arange(x.shape[1]), self.fusion.multihead_attn.num_heads):
            scores = q[:, columns] @ k[:, columns].T / np.sqrt(len(columns))
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, columns])
        mixed = np.concatenate(heads, axis=1)
        u = mixed @ p["multihead_attn.out_proj.weight"].T + p["multihead_attn.out_proj.bias"] + x
        n = _norm(u) * p["AV_LayerNorm.weight"] + p["AV_LayerNorm.bias"]
        gate = np.maximum(np.concatenate([n, text], axis=1) @ p["W_hav.weight"].T + p["W_hav.bias"], 0)
        shift = gate * (n @ p["W_av.weight"].T + p["W_av.bias"])
        length = np.linalg.norm(shift, axis=1, keepdims=True)
        bound = np.linalg.norm(text, axis=1, keepdims=True) / (np.where(length == 0, 1, length) + 1e-6)
        z = _norm(text + np.minimum(bound * self.release.beta, 1) * shift)
        z = z * p["LayerNorm.weight"] + p["LayerNorm.bias"]
        return np.asarray(z @ p["W.weight"].T + p["W.bias"])


def _norm(x: Array) -> Array:
    centred = x - x.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5))


def byte_level_tokenizer(folder: Path, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """A tokenizer of RoBERTa's kind, saved in `folder` as the model hub keeps it; returned without speaker tokens."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *vocabulary, "<mask>"]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", special=True, normalized=False, lstrip=True),
    )
    fast.save_pretrained(folder)
    return tokenizer


class Imported:
    """A miniature release of one data set, and the run that the command has made of it."""

    def __init__(self, dataset: str, folder: Path) -> None:
        alphabet = {character: place for place, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        self.tokenizer = folder / "tokenizer"
        size = byte_level_tokenizer(self.tokenizer, alphabet, []).get_vocab_size()
        self.dataset = dataset
        self.theirs = Miniature.make(dataset, size + 9)
        self.release = self.theirs.save(folder / "save_model")
        self.run = folder / "run"

    def command(self, release: Path | None = None, run: Path | None = None) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "RELEASES", {**RELEASES, self.dataset: self.theirs.release})
            arguments = [release or self.release, "--dataset", self.dataset, "--output", run or self.run]
            return cli.main(["import-authors", *map(str, arguments), "--tokenizer", str(self.tokenizer)])
