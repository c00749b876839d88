"""The speech that a run's corpora hold, by split, corpus and label."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from telme.corpora import emodb, iemocap, meld, ravdess, waveforms
from telme.corpora.conversations import CONVERSATIONS
from telme.corpora.records import Corpus
from telme.corpora.waveforms import Clip
from telme.training.config import TrainingConfig
from telme.training.errors import TrainingError
from telme.training.processes import together

CORPORA: Mapping[str, Callable[[Path], Corpus]] = {
    "meld": lambda folder: meld.load(folder, clips=folder),
    "iemocap": lambda folder: iemocap.load(folder, clips=folder),
    "ravdess": ravdess.load,
    "emodb": emodb.load,
}
OWN_LABELS: Mapping[str, tuple[str, ...]] = {"ravdess": ravdess.LABELS, "emodb": emodb.LABELS}


def load_speech(config: TrainingConfig, corpora: Mapping[str, Corpus]) -> list[Clip]:
    """The sound of every utterance that has some; that of conversations is decoded once and kept.

    Raises TrainingError when nothing is left of train, dev or test.
    """
    if config.audio is None:
        raise TrainingError(f"The configuration {config.name} has no section `audio`; add it.")
    spec, files = config.audio.input, config.decoded_files
    with together().one_first():
        clips = [
            clip
            for name, corpus in corpora.items()
            for clip in waveforms.load(
                name, corpus.utterances, spec.min_s, spec.source_rate_hz, files if name in CONVERSATIONS else None
            )
        ]
    for split in ("train", "dev", "test"):
        if not select(clips, split):
            raise TrainingError(
                f"No utterance of the {split} split of {', '.join(corpora)} has sound that can be read; put the clips "
                f"into {config.corpora}, or name another folder with --corpora."
            )
    return clips


def select(clips: Sequence[Clip], split: str, corpus: str | None = None) -> list[Clip]:
    return [clip for clip in clips if clip.utterance.split == split and corpus in (None, clip.corpus)]


def labelled(clips: Sequence[Clip], labels: Sequence[str]) -> list[Clip]:
    """Those whose label is among `labels`, or has a counterpart there."""
    return [clip for clip in clips if clip.utterance.label_among(labels) is not None]
