"""Write a run folder of the paper's scale with random weights, to time exports of it where no hub can be reached.

    python bench/paper_scale.py --output runs/paper-scale --corpora /path/to/corpora
    telme-export runs/paper-scale --target openvino --output bundles/paper-scale --corpora /path/to/corpora --samples 8
    telme-bench bundles/paper-scale --against eager --run runs/paper-scale --threads 2 --repeats 5

RoBERTa-large, data2vec-audio-base and TimeSformer-base of configs/meld.yaml, as `telme-train` would write them. Random
weights take as long as trained ones. All parts prefer one emotion, so that an export is judged by its vectors alone
(docs/performance.md).
"""

import argparse
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Data2VecAudioConfig, RobertaConfig, TimesformerConfig

from export.benchmark import TYPICAL_S, TYPICAL_TOKENS
from export.eager import floating_point_operations
from export.lean import lean
from telme.bundle import AudioSpec, FusionSpec, TextSpec, VisualSpec
from telme.corpora import meld
from telme.models.audio import AudioDimensions, AudioStudent, Data2VecDimensions
from telme.models.fusion import ASF, FusionDimensions
from telme.models.teacher import Teacher, TeacherDimensions
from telme.models.visual import VisualDimensions, VisualStudent
from telme.training import checkpoint, config
from telme.training.checkpoint import Checkpoint, PartName, current_commit
from telme.training.config import TrainingConfig

CONFIG = Path(__file__).parents[1] / "configs" / "meld.yaml"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
VOCABULARY = 50_265  # RoBERTa's, without speakers

Specification = TextSpec | AudioSpec | VisualSpec | FusionSpec

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


@dataclass(frozen=True)
class Encoders:
    """With random weights."""

    text: Teacher
    audio: AudioStudent
    visual: VisualStudent


def encoders(settings: TrainingConfig) -> Encoders:
    """As the configuration describes them."""
    teacher, audio, visual = settings.teacher, settings.audio, settings.visual
    assert teacher is not None
    assert audio is not None
    assert visual is not None
    roberta = ROBERTA_LARGE.to_diff_dict() | {"vocab_size": VOCABULARY + teacher.speakers}
    data2vec = Data2VecDimensions(DATA2VEC_AUDIO_BASE.to_diff_dict())
    labels = len(settings.labels)
    return Encoders(
        Teacher(TeacherDimensions(roberta, teacher.vector, labels)),
        AudioStudent(AudioDimensions(data2vec, audio.vector, labels, audio.pooling)),
        VisualStudent(VisualDimensions(TIMESFORMER_BASE.to_diff_dict(), visual.vector, labels)),
    )


def write(folder: Path, corpora: Path, seed: int = 0) -> None:
    """Write all four parts, 2.3 GB, into `folder`. The tokenizer is RoBERTa's kind, trained on MELD's utterances."""
    torch.manual_seed(seed)
    settings = config.load(CONFIG)
    teacher, audio, visual, fusion = settings.teacher, settings.audio, settings.visual, settings.fusion
    assert teacher is not None
    assert audio is not None
    assert visual is not None
    assert fusion is not None
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
    made = encoders(settings)
    labels = len(settings.labels)
    sizes = FusionDimensions(
        teacher.vector, audio.vector, visual.vector, labels, heads=fusion.heads, dropout=fusion.dropout
    )

    def save(part: PartName, model: Teacher | AudioStudent | VisualStudent | ASF, preprocessing: Specification) -> None:
        _prefer_one(model.classifier)
        about = Checkpoint(
            part=part,
            labels=settings.labels,
            architecture=asdict(model.dimensions),
            preprocessing=preprocessing,
            corpora=("none",),
            licence="random numbers",
            config="paper-scale",
            seed=seed,
            commit=current_commit(),
        )
        checkpoint.save(folder / part, about, model, tokenizer if part == "text" else None)

    save("text", made.text, text)
    save("audio", made.audio, audio.input)
    save("visual", made.visual, visual.input)
    save("fusion", ASF(sizes), FusionSpec(beta=fusion.beta))


def _prefer_one(classifier: nn.Linear) -> None:
    """By 3, five times what random logits vary by: else two are as good as equal, and any rounding swaps them."""
    with torch.no_grad():
        classifier.bias[0] += 3


def arithmetic() -> dict[str, tuple[float, float]]:
    """Part -> 10^9 multiplications and additions for the typical utterance, in the module and in what is exported.

    Nothing is computed: tensors have shapes only.
    """
    with torch.device("meta"):
        made = encoders(config.load(CONFIG))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("meta"):
        samples = round(TYPICAL_S * 16_000)
        inputs: dict[str, tuple[Tensor, ...]] = {
            "text": (torch.zeros(1, TYPICAL_TOKENS).long(), torch.ones(1, TYPICAL_TOKENS).long()),
            "audio": (torch.zeros(1, samples), torch.ones(1, samples, dtype=torch.bool)),
            "visual": (torch.zeros(1, 8, 3, 224, 224), torch.ones(1, 8)),
        }
        return {
            name: (_operations(module, inputs[name]), _operations(lean(module), inputs[name]))
            for name, module in vars(made).items()
        }


def _operations(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    with torch.inference_mode():
        return floating_point_operations(lambda: module.eval()(*inputs)) / 1e9


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
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=Path, metavar="RUN", help="write the run folder there")
    what.add_argument("--arithmetic", action="store_true", help="print how much arithmetic an utterance takes")
    parser.add_argument("--corpora", type=Path, default=Path("corpora"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.arithmetic:
        for part, (trained, exported) in arithmetic().items():
            print(f"{part}: {trained:.1f} GFLOP, exported {exported:.1f} ({exported / trained - 1:+.1%})")
        return
    write(options.output, options.corpora, options.seed)
    print(f"run written to {options.output}")


if __name__ == "__main__":
    main()
