"""Whether the text teacher knows more of rare emotions than it answers.

    python bench/rare_emotions.py --corpora DIR [--bundle DIR]

Fear and disgust are 3 % of MELD's utterances each, and a teacher that is right most often hardly ever answers them.
Here tau log pi is taken from its logits, with pi the labels' shares of the train split (Menon et al., "Long-tail
learning via logit adjustment", ICLR 2021, arXiv 2007.07314): at 0 they are as they are, at 1 no emotion is favoured for
being frequent. Prints scores on MELD's dev and test splits for each tau.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from telme.bundle import COMPACT, Bundle
from telme.corpora import meld
from telme.evaluation import Evaluation
from telme.training import exported
from telme.training.encodings import TextPart
from telme.training.teacher import indices

TAUS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
METRICS = ("weighted_f1", "macro_f1", "f1_neutral", "f1_fear", "f1_disgust")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, metavar="DIR", help="folder that holds meld/")
    parser.add_argument("--bundle", type=Path, default=COMPACT, metavar="DIR")
    options = parser.parse_args()
    corpus = meld.load(options.corpora / "meld")
    part = exported.parts(Bundle.open(options.bundle))[0]["text"]
    assert isinstance(part, TextPart)
    labels = part.about.labels
    counts = np.bincount(indices(corpus.split("train"), labels), minlength=len(labels))
    prior = counts / counts.sum()
    table = Table("split", "tau", *(metric.replace("_", " ") for metric in METRICS))
    for split in ("dev", "test"):
        encoded = part.encode(corpus.split(split))
        logits = part.logits(encoded.vectors).numpy()
        for tau in TAUS:
            adjusted = (logits - tau * np.log(prior)).astype(np.float32)
            metrics = Evaluation.of(adjusted, encoded.truth, labels).metrics()
            table.add_row(split, f"{tau:.1f}", *(f"{metrics[metric]:.3f}" for metric in METRICS))
    Console().print(table)


if __name__ == "__main__":
    main()
