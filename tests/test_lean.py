"""What an export computes in place of a module says the same, and is less work."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, Data2VecAudioConfig, RobertaConfig, TimesformerConfig

from export.lean import lean
from export.onnx import Signature, to_onnx
from telme.bundle import Tensor as Described
from telme.models.audio import AudioDimensions, AudioStudent, Data2VecDimensions, WhisperDimensions
from telme.models.teacher import Teacher, TeacherDimensions
from telme.models.visual import VisualDimensions, VisualStudent

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32}
CONVOLUTIONS = {"conv_dim": [8] * 7, "conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2}
PLACES = {"vocab_size": 40, "max_position_embeddings": 64}
OUTPUTS = {"vector": 12, "logits": 5}
WORDS = (
    Described(name="input_ids", dtype="int64", shape=("batch", "tokens")),
    Described(name="attention_mask", dtype="int64", shape=("batch", "tokens")),
)
SOUNDS = (
    Described(name="features", dtype="float32", shape=("batch", "steps")),
    Described(name="mask", dtype="bool", shape=("batch", "steps")),
)
PICTURES = (
    Described(name="frames", dtype="float32", shape=("batch", "frames", 3, 32, 32)),
    Described(name="mask", dtype="float32", shape=("batch", "frames")),
)


def teacher(config: BertConfig | RobertaConfig) -> Teacher:
    return Teacher(TeacherDimensions(config.to_diff_dict() | {"model_type": config.model_type}, 12, 5))


def data2vec(pooling: str = "first") -> AudioStudent:
    config = Data2VecAudioConfig(**SIZES, **CONVOLUTIONS, num_conv_pos_embedding_groups=2)
    return AudioStudent(AudioDimensions(Data2VecDimensions(config.to_diff_dict()), 12, 5, pooling))


def timesformer(**changes: object) -> VisualStudent:
    config = TimesformerConfig(**(SIZES | {"image_size": 32, "patch_size": 8, "num_frames": 4} | changes))
    return VisualStudent(VisualDimensions(config.to_diff_dict() | {"model_type": "timesformer"}, 12, 5))


def words() -> tuple[Tensor, Tensor]:
    real = torch.arange(20) < torch.tensor([[20], [11], [1]])
    return torch.where(real, torch.randint(5, 40, (3, 20)), 1), real.long()


def sounds() -> tuple[Tensor, Tensor]:
    real = torch.arange(6000) < torch.tensor([[6000], [4000], [1600]])
    return torch.randn(3, 6000) * real, real


def pictures() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4, 3, 32, 32), (torch.arange(4) < torch.tensor([[4], [2], [1]])).float()


CASES = {
    "roberta": (lambda: teacher(RobertaConfig(**SIZES, **PLACES)), words),
    "bert": (lambda: teacher(BertConfig(**SIZES, **PLACES, pad_token_id=1)), words),
    "data2vec": (data2vec, sounds),
    "timesformer": (timesformer, pictures),
}


@pytest.mark.parametrize("name", CASES)
def test_it_says_the_same_with_less_work(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = CASES[name]
    module, given = with_marked_weights(make()).eval(), inputs()
    smaller = lean(module).eval()
    assert smaller is not module
    (wanted, work), (found, less_work) = answered(module, given), answered(smaller, given)
    for before, after in zip(wanted, found, strict=True):
        torch.testing.assert_close(after, before, atol=2e-5, rtol=1e-4)
    assert less_work < work


@pytest.mark.parametrize(("name", "names"), [("roberta", WORDS), ("data2vec", SOUNDS), ("timesformer", PICTURES)])
def test_onnx_says_the_same_of_other_sizes(name: str, names: tuple[Described, Described]) -> None:
    torch.manual_seed(0)
    make, inputs = CASES[name]
    module, given = with_marked_weights(make()).eval(), inputs()
    outputs = tuple(Described(name=key, dtype="float32", shape=("batch", size)) for key, size in OUTPUTS.items())
    values = {tensor.name: value.numpy() for tensor, value in zip(names, given, strict=True)}
    model = to_onnx(lean(module), Signature(names, outputs), values)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for rows in (slice(0, 3), slice(1, 2)):  # a batch, and one that is shorter than the longest
        vector, logits = module(*(value[rows] for value in given))
        found = session.run(list(OUTPUTS), {key: value[rows] for key, value in values.items()})
        for before, after in zip((vector, logits), found, strict=True):
            np.testing.assert_allclose(after, before.detach().numpy(), atol=5e-5, rtol=1e-4)


def test_what_has_nothing_to_save_stays() -> None:
    whisper = AudioStudent(AudioDimensions(WhisperDimensions(80, 16, 1, 2), 12, 5))
    for module in (whisper, data2vec(pooling="mean"), timesformer(attention_type="space_only")):
        assert lean(module) is module


def with_marked_weights(module: nn.Module) -> nn.Module:
    """Random where a fresh model has zeros and ones, so that a bias or scale that is left out is missed."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return module


def answered(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, ...], int]:
    """Vector and logits, and the arithmetic that they took."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        return module(*inputs), counter.get_total_flops()
