"""Write a run folder of the paper's scale with random weights, to time exports of it where no hub can be reached.

    python bench/paper_scale.py --output runs/paper-scale --corpora /path/to/corpora
    telme-export runs/paper-scale --target openvino --output bundles/paper-scale --corpora /path/to/corpora --samples 8
    telme-bench bundles/paper-scale --against eager --run runs/paper-scale --threads 2 --repeats 5

RoBERTa-large, data2vec-audio-base and TimeSformer-base of configs/meld.yaml, as `telme-train` would write them. Random
weights take as long as trained ones; how often two precisions agree on an emotion says less (docs/performance.md).
"""

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import Data2VecAudioConfig, RobertaConfig, TimesformerConfig

from telme.bundle import FusionSpec, TextSpec
from telme.corpora import meld
from telme.models.audio import AudioDimensions, AudioStudent, Data2VecDimensions
from telme.models.fusion import ASF, FusionDimensions
from telme.models.teacher import Teacher, TeacherDimensions
from telme.models.visual import VisualDimensions, VisualStudent
from telme.training import config
from telme.training.checkpoint import Checkpoint, PartName, current_commit, save

CONFIG = Path(__file__).parents[1] / "configs" / "meld.yaml"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
VOCABULARY = 50_265  # RoBERTa's, without speakers

ROBERTA_LARGE = RobertaConfig(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    max_position_embeddings=514,
    layer_norm_eps=1e-5,
)
DATA2VEC_AUDIO_BASE = Data2VecAudioConfig()
TIMESFORMER_BASE = TimesformerConfig()


def write(folder: Path, corpora: Path, seed: int = 0) -> None:
    """Write all four parts, 2.6 GB, into `folder`. The tokenizer is RoBERTa's kind, trained on MELD's utterances."""
    torch.manual_seed(seed)
    settings = config.load(CONFIG)
    teacher, audio, visual, fusion = settings.teacher, settings.audio, settings.visual, settings.fusion
    assert teacher and audio and visual and fusion
    speakers = tuple(f"<s{number}>" for number in range(1, teacher.speakers + 1))
    dialogues = meld.load(corpora / "meld").split("train")
    tokenizer = train_tokenizer((turn.text for dialogue in dialogues for turn in dialogue.turns), speakers)
    text = TextSpec(
        tokenizer_sha256=sha256(tokenizer.to_str(pretty=True).encode()).hexdigest(),
        max_tokens=teacher.max_tokens,
        separator_token="</s>",
        mask_token="<mask>",
        pad_token="<pad>",
        speaker_tokens=speakers,
    )
    roberta = {**ROBERTA_LARGE.to_diff_dict(), "vocab_size": VOCABULARY + len(speakers)}
    data2vec = Data2VecDimensions(DATA2VEC_AUDIO_BASE.to_diff_dict())
    labels = len(settings.labels)
    sizes = FusionDimensions(
        teacher.vector, audio.vector, visual.vector, labels, heads=fusion.heads, dropout=fusion.dropout
    )
    vision = TIMESFORMER_BASE.to_diff_dict()
    parts: list[tuple[PartName, nn.Module, Checkpoint]] = []

    def add(part: PartName, model: Teacher | AudioStudent | VisualStudent | ASF, preprocessing: object) -> None:
        about = Checkpoint.model_validate(
            {
                "part": part,
                "labels": settings.labels,
                "architecture": asdict(model.dimensions),
                "preprocessing": preprocessing,
                "corpora": ["none"],
                "licence": "random numbers",
                "config": "paper-scale",
                "seed": seed,
                "commit": current_commit(),
            }
        )
        parts.append((part, model, about))

    add("text", Teacher(TeacherDimensions(roberta, teacher.vector, labels)), text)
    add("audio", AudioStudent(AudioDimensions(data2vec, audio.vector, labels, audio.pooling)), audio.input)
    add("visual", VisualStudent(VisualDimensions(vision, visual.vector, labels)), visual.input)
    add("fusion", ASF(sizes), FusionSpec(beta=fusion.beta))
    for part, model, about in parts:
        save(folder / part, about, model, tokenizer if part == "text" else None)


def train_tokenizer(utterances: Iterable[str], speakers: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[*SPECIAL], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(utterances, trainer)
    tokenizer.add_special_tokens([*speakers])
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="RUN")
    parser.add_argument("--corpora", type=Path, default=Path("corpora"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.output, options.corpora, options.seed)
    print(f"run written to {options.output}")


if __name__ == "__main__":
    main()
