"""What the text teacher loses to each kind of made-up mistake.

    python bench/misheard_text.py --corpora DIR [--bundle DIR] [--draws 5]

Prints weighted F1 on MELD's test utterances as they are written, with the 20 % word errors of
telme/training/text_noise.py but MELD's own punctuation and capitals, without punctuation and capitals but with every
word right, and with word errors where every second prompt has neither, which is what `telme-evaluate` scores. Mistakes
are drawn several times over, and scored together. 95 % intervals are of the difference, and resample dialogues.
"""

import argparse
from pathlib import Path

import numpy as np
from heard_dialogues import evaluate, points
from rich.console import Console
from rich.progress import track
from rich.table import Table

from telme.bundle import COMPACT, Bundle
from telme.corpora import meld
from telme.evaluation import weighted_f1
from telme.training import exported
from telme.training.config import TextNoise
from telme.training.encodings import TextPart
from telme.training.teacher import mishear
from telme.training.text_noise import ASR_ERRORS

UNPUNCTUATED = {"share": 1.0, "unpunctuated": 1.0}
KINDS = {
    "word errors": ASR_ERRORS.model_copy(update={"unpunctuated": 0.0}),
    "no punctuation, no capitals": TextNoise(deletion=0.0, substitution=0.0, insertion=0.0, **UNPUNCTUATED),
    "word errors, and half without either": ASR_ERRORS,
    "word errors, all without either": ASR_ERRORS.model_copy(update=UNPUNCTUATED),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, metavar="DIR", help="folder that holds meld/")
    parser.add_argument("--bundle", type=Path, default=COMPACT, metavar="DIR")
    parser.add_argument("--draws", type=int, default=5, metavar="N")
    options = parser.parse_args()
    corpus = meld.load(options.corpora / "meld")
    items = corpus.split("test")
    part = exported.parts(Bundle.open(options.bundle))[0]["text"]
    assert isinstance(part, TextPart)
    written = evaluate(part, items).resampled_counts()
    table = Table("text", "weighted F1", "against written, points")
    table.add_row("as written", f"{weighted_f1(written.sum(0)):.3f}", "")
    for kind, noise in track(KINDS.items(), console=Console(stderr=True)):
        draws = [evaluate(part, mishear(items, corpus, noise, draw)) for draw in range(options.draws)]
        counts = np.sum([each.resampled_counts() for each in draws], axis=0)
        table.add_row(kind, f"{weighted_f1(counts.sum(0)):.3f}", points(options.draws * written, counts))
    Console().print(table)


if __name__ == "__main__":
    main()
