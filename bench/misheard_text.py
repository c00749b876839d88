"""What the text teacher loses to each kind of made-up mistake.

    python bench/misheard_text.py --corpora DIR [--bundle DIR] [--draws 5]

Prints weighted F1 on MELD's test utterances as they are written, with the 20 % word errors of
telme/training/text_noise.py but MELD's own punctuation and capitals, without punctuation and capitals but with every
word right, and with word errors where every second prompt has neither, which is what `telme-evaluate` scores. Mistakes
are drawn several times over, and scored together. 95 % intervals are of the difference, and resample dialogues.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from heard_dialogues import points
from rich.console import Console
from rich.progress import track
from rich.table import Table

from telme.bundle import COMPACT, Bundle
from telme.corpora import meld
from telme.corpora.records import Utterance
from telme.evaluation import Counts, Evaluation, weighted_f1
from telme.training import exported
from telme.training.config import TextNoise
from telme.training.encodings import TextPart
from telme.training.text_noise import ASR_ERRORS, Recogniser

UNPUNCTUATED = {"share": 1.0, "unpunctuated": 1.0}
KINDS = {
    "as written": TextNoise(share=0.0),
    "word errors": ASR_ERRORS.model_copy(update={"unpunctuated": 0.0}),
    "no punctuation, no capitals": TextNoise(deletion=0.0, substitution=0.0, insertion=0.0, **UNPUNCTUATED),
    "word errors, and half without either": ASR_ERRORS,
    "word errors, all without either": ASR_ERRORS.model_copy(update=UNPUNCTUATED),
}


def disturbed(items: Sequence[Utterance], recogniser: Recogniser, draw: int) -> list[Utterance]:
    random = np.random.default_rng(draw)
    return [replace(item, turns=tuple(recogniser.disturb(item.turns, random))) for item in items]


def counts(part: TextPart, draws: Sequence[Sequence[Utterance]]) -> Counts:
    """Of all draws together, by dialogue."""
    encoded = [part.encode(items) for items in draws]
    logits = np.concatenate([part.logits(each.vectors).numpy() for each in encoded])
    truth = np.concatenate([each.truth for each in encoded])
    dialogues = [str(item.dialogue) for items in draws for item in items]
    return Evaluation.of(logits, truth, part.about.labels, dialogues).resampled_counts()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, metavar="DIR", help="folder that holds meld/")
    parser.add_argument("--bundle", type=Path, default=COMPACT, metavar="DIR")
    parser.add_argument("--draws", type=int, default=5, metavar="N")
    options = parser.parse_args()
    corpus = meld.load(options.corpora / "meld")
    items = corpus.split("test")
    words = [item.turns[-1].text for item in corpus.split("train")]
    part = exported.parts(Bundle.open(options.bundle))[0]["text"]
    assert isinstance(part, TextPart)
    found: dict[str, Counts] = {}
    for kind, noise in track(KINDS.items(), console=Console(stderr=True)):
        recogniser = Recogniser(noise, words)
        found[kind] = counts(part, [disturbed(items, recogniser, draw) for draw in range(options.draws)])
    table = Table("text", "weighted F1", "against written, points")
    for kind, each in found.items():
        table.add_row(kind, f"{weighted_f1(each.sum(0)):.3f}", points(found["as written"], each))
    Console().print(table)


if __name__ == "__main__":
    main()
