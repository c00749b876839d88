"""A run folder as telme-train writes it, with small parts of random weights: quick to export."""

from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import BertPreTokenizer

from telme.bundle import AudioSpec, FusionSpec, Score, TextSpec, VisualSpec
from telme.labels import MELD
from telme.models.audio import AudioDimensions, AudioStudent, WhisperDimensions
from telme.models.fusion import ASF, FusionDimensions
from telme.models.teacher import Teacher, TeacherDimensions
from telme.models.visual import VisualDimensions, VisualStudent
from telme.training.checkpoint import Checkpoint, PartName, save

SPECIAL = ("<pad>", "<unk>", "</s>", "<mask>", "<s1>", "<s2>")
WORDS = ("Now", "feels", "i", "you", "the", "a", "what", "no", "oh", "that", "is", "it", ".", ",", "!", "?", "'", "s")
VECTOR = {"text": 24, "audio": 16, "visual": 8}


def write(folder: Path, visual_kind: str = "frames", seed: int = 0) -> Path:
    """Write all four parts; returns `folder`."""
    torch.manual_seed(seed)
    tokenizer = small_tokenizer()
    text = TextSpec(
        tokenizer_sha256=sha256(tokenizer.to_str(pretty=True).encode()).hexdigest(),
        max_tokens=64,
        separator_token="</s>",
        mask_token="<mask>",
        pad_token="<pad>",
        speaker_tokens=("<s1>", "<s2>"),
    )
    bert = {
        "model_type": "bert",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 64,
    }
    audio = AudioSpec(kind="log_mel", max_s=4.0)
    visual = VisualSpec.model_validate(
        {"kind": visual_kind, "size_px": 16, "channels": 1, "frames": 4, "mean": (0.5,), "std": (0.25,)}
    )
    faces = {"model_type": "face_cnn", "channels": 1, "stem": 8, "widths": [16, 32], "mirrored": True}
    labels = len(MELD)
    write_part(folder, "text", Teacher(TeacherDimensions(bert, VECTOR["text"], labels)), text, tokenizer)
    whisper = WhisperDimensions(mel_bins=80, width=32, layers=1, heads=2)
    write_part(
        folder, "audio", AudioStudent(AudioDimensions(whisper, VECTOR["audio"], labels, pooling="mean_std")), audio
    )
    write_part(folder, "visual", VisualStudent(VisualDimensions(faces, VECTOR["visual"], labels)), visual)
    fusion = ASF(FusionDimensions(**VECTOR, labels=labels, heads=2, dropout=0.2))
    write_part(folder, "fusion", fusion, FusionSpec(beta=0.5))
    return folder


def write_part(
    folder: Path,
    part: PartName,
    model: Teacher | AudioStudent | VisualStudent | ASF,
    preprocessing: TextSpec | AudioSpec | VisualSpec | FusionSpec,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write one part."""
    about = Checkpoint(
        part=part,
        labels=MELD,
        architecture=asdict(model.dimensions),
        preprocessing=preprocessing,
        temperature=1.5,
        students_temperature=0.75 if part == "fusion" else 1.0,
        scores=(Score(part=part, data="nothing", metric="weighted_f1", value=0.1, interval=(0.05, 0.15)),),
        corpora=("MELD", "RAVDESS"),
        licence="random numbers",
        config="small",
        seed=0,
        commit="0123456",
    )
    save(folder / part, about, model, tokenizer)


def small_tokenizer() -> Tokenizer:
    """Knows a few words and the special tokens."""
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer
