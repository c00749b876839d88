"""RAVDESS (Livingstone & Russo, PLOS ONE 2018): acted English speech, eight emotions, 24 actors, two sentences.

A file's name says everything: `03-01-EE-II-SS-RR-AA`, with 03 sound only, 01 speech, EE emotion, II intensity,
SS sentence, RR repetition, AA actor (odd numbers are men). The video of the same take begins with 01 instead of 03.
"""

import re
from collections import Counter
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from telme.corpora.clip_names import named_clips
from telme.corpora.records import Corpus, CorpusError, Split, Utterance
from telme.labels import RAVDESS

LICENCE = "CC BY-NC-SA 4.0: non-commercial use only"
LABELS = tuple(RAVDESS.to_meld)  # in the order of the codes, from 01
SENTENCES = ("Kids are talking by the door.", "Dogs are sitting by the door.")  # in the order of the codes, from 01
ACTION_UNITS = "action_units.npz"

_NAME = re.compile(r"03-01-(0[1-8])-0[12]-(0[12])-0[12]-(0[1-9]|1[0-9]|2[0-4])")


def load(folder: Path) -> Corpus:
    """Read the speech clips; files whose name says something else are counted and reported.

    folder: holds the clips as .wav or .flac, in it or below it.
    Splits by actor: 1 to 14 train, 15 and 16 dev, 17 to 20 test, 21 to 24 train.
    Raises CorpusError when the folder holds no clip.
    """
    utterances: list[Utterance] = []
    dropped: Counter[str] = Counter()
    for path, match in named_clips(folder, _NAME, "RAVDESS's audio-only speech", dropped):
        emotion, sentence, actor = map(int, match.groups())
        label = LABELS[emotion - 1]
        utterances.append(
            Utterance(
                id=path.stem,
                split=_split(actor),
                label=label,
                meld_label=RAVDESS.to_meld[label],
                speaker=f"actor-{actor:02}",
                said=SENTENCES[sentence - 1],
                audio=path,
            )
        )
    if not utterances:
        raise CorpusError(f"{folder} holds no RAVDESS clip such as 03-01-05-01-01-01-01.wav; give its audio folder.")
    corpus = Corpus("RAVDESS", LICENCE, utterances, dropped)
    corpus.report()
    return corpus


def action_units(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    """What OpenFace (Baltrušaitis et al., FG 2018) saw of each take's face, by the id of its sound clip.

    folder: holds `action_units.npz` with `clip` (n,), names without the leading 03, and `au` (n, 35): means over the
    clip, of the intensities of 17 action units in [0, 5] and then of the presences of 18 in [0, 1].
    Raises CorpusError when that file is missing or holds something else.
    """
    path = folder / ACTION_UNITS
    try:
        with np.load(path) as arrays:
            clips = [f"03-{clip}" for clip in arrays["clip"]]
            values = np.asarray(arrays["au"], np.float32)
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise CorpusError(f"{path} cannot be read ({error}); give RAVDESS's folder, which holds it.") from error
    if values.ndim != 2 or len(values) != len(clips) or not np.isfinite(values).all():
        raise CorpusError(f"{path} does not hold one row of numbers per clip; make it anew.")
    if strange := [clip for clip in clips if _NAME.fullmatch(clip) is None]:
        raise CorpusError(f"{path} names {strange[0]}, which is no clip of RAVDESS's speech; make it anew.")
    return dict(zip(clips, values, strict=True))


def _split(actor: int) -> Split:
    if actor in (15, 16):
        return "dev"
    return "test" if 17 <= actor <= 20 else "train"
