"""How well the audio student does on people whom it never heard: every speaker is tested once, in four folds.

    python bench/speech_folds.py configs/compact.yaml --corpora /path/to/corpora --output runs/speech-folds

A student is trained for each fold as the configuration says. The output folder keeps what is finished: a run that was
stopped goes on where it was. Intervals resample whole speakers.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from paired_trial import rotating
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from telme.corpora.records import Split
from telme.corpora.waveforms import Clip
from telme.evaluation import Counts, accuracy, bootstrap_interval
from telme.training import config
from telme.training.audio import AudioTask, pretrained_student
from telme.training.config import AudioSettings, TrainingConfig
from telme.training.loop import fit
from telme.training.speech import CORPORA, OWN_LABELS, labelled, load_speech, select

FOLDS = 4


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    settings = config.load(options.config).model_copy(update={"corpora": options.corpora, "output": options.output})
    if settings.audio is None:
        raise SystemExit(f"{options.config} has no section `audio`; give one that has, such as configs/compact.yaml.")
    corpora = [name for name in settings.audio.corpora if name in OWN_LABELS]
    clips = load_speech(settings, {name: CORPORA[name](options.corpora / name) for name in corpora})
    folds = [judged(settings, settings.audio, part, number) for number, part in enumerate(rotated(clips), start=1)]
    Console(width=100).print(table(folds))


def rotated(clips: Sequence[Clip]) -> list[list[Clip]]:
    """The clips with the splits of each fold; the speakers of each corpus are divided by themselves.

    A tenth of a corpus's speakers, at least one, are the dev split.
    """
    folds: list[list[Clip]] = [[] for _ in range(FOLDS)]
    for corpus in dict.fromkeys(clip.corpus for clip in clips):
        its = [clip for clip in clips if clip.corpus == corpus]
        speakers = np.array([clip.utterance.speaker for clip in its])
        dev = max(1, len(np.unique(speakers)) // 10)
        for part, fold in zip(folds, rotating(speakers, FOLDS, dev), strict=True):
            splits: tuple[tuple[Split, np.ndarray], ...] = (
                ("train", fold.train),
                ("dev", fold.dev),
                ("test", fold.test),
            )
            for split, rows in splits:
                part += [replace(its[row], utterance=replace(its[row].utterance, split=split)) for row in rows]
    return folds


def judged(run: TrainingConfig, settings: AudioSettings, clips: Sequence[Clip], number: int) -> dict[str, Counts]:
    """Confusion matrices (G, C, C) of the test speakers, by what was asked of them."""
    torch.manual_seed(run.seed)
    task = AudioTask(pretrained_student(settings, run.labels), clips, settings, run.seed, labels=run.labels)
    fit(task, settings.schedule, run.folder / f"fold-{number}", run.seed, settings.model_dump_json())
    counts = {}
    for corpus in dict.fromkeys(clip.corpus for clip in clips):
        test = select(clips, "test", corpus)
        own = task.own_results(corpus, test)
        counts[f"{corpus}, own {len(own.labels)} labels"] = own.resampled_counts()
        counts[f"{corpus}, the run's labels"] = task.results(labelled(test, run.labels)).resampled_counts()
    return counts


def table(folds: Sequence[dict[str, Counts]]) -> Table:
    shown = Table(title="Accuracy on speakers who were not trained on")
    for column in ("labels", *(f"fold {number}" for number in range(1, len(folds) + 1)), "all", "95 %"):
        shown.add_column(column, justify="left" if column == "labels" else "right")
    for name in folds[0]:
        everyone = np.concatenate([fold[name] for fold in folds])
        low, high = bootstrap_interval(everyone, accuracy)
        each = [f"{accuracy(fold[name].sum(axis=0)):.3f}" for fold in folds]
        shown.add_row(name, *each, f"{accuracy(everyone.sum(axis=0)):.3f}", f"{low:.3f} to {high:.3f}")
    return shown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="such as configs/compact.yaml")
    parser.add_argument("--corpora", type=Path, required=True, metavar="DIR", help="folder with ravdess/ and emodb/")
    parser.add_argument("--output", type=Path, default=Path("runs/speech-folds"), metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
