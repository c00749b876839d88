"""CMU-MOSI (Zadeh et al., IEEE Intelligent Systems 2016): film reviewers on YouTube, negative or positive.

Not clips, but features of the same utterances in three modalities, as Poria et al. (ACL 2017) published them. Their
text and video features come from networks that learnt the labels of the train split, and give these labels away
there, but not on the test split: what is to generalise must be learnt from utterances that those networks never saw.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from telme.corpora.records import Corpus, CorpusError, Utterance
from telme.features.text import Turn

FILE = "mosi_utterance_features.npz"
LICENCE = "features: MIT; data: research only"
LABELS = ("negative", "positive")
MODALITIES = ("text", "audio", "video")
DEV_EVERY = 5  # the features come without a dev split: every 5th of the train videos

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reviews:
    """The corpus and its features.

    features: modality -> (n, f), a row per utterance of the corpus, in its order.
    """

    corpus: Corpus
    features: Mapping[str, Float32]


def load(folder: Path) -> Reviews:
    """Read all utterances, in the order of video and time; a video is a dialogue of one speaker.

    folder: holds `mosi_utterance_features.npz` with, for train and test each, `_utt_id`, `_text`, `_video_id`,
    `_utt_no`, `_y` (0 or 1) and per modality `_x_text`, `_x_audio` and `_x_video`.
    Raises CorpusError when that file is missing or holds something else.
    """
    path = folder / FILE
    keys = ("utt_id", "text", "video_id", "utt_no", "y", *(f"x_{modality}" for modality in MODALITIES))
    try:
        with np.load(path) as arrays:
            columns = {key: np.concatenate([arrays[f"train_{key}"], arrays[f"test_{key}"]]) for key in keys}
            trained = set(arrays["train_video_id"].tolist())
            shared = trained & set(arrays["test_video_id"].tolist())
        labels = [LABELS[place] for place in columns["y"]]
        finite = all(np.isfinite(columns[f"x_{modality}"]).all() for modality in MODALITIES)
        order = np.lexsort((columns["utt_no"], columns["video_id"]))
    except (OSError, KeyError, ValueError, IndexError, BadZipFile) as error:
        raise CorpusError(f"{path} cannot be read ({error}); give the folder that holds CMU-MOSI as {FILE}.") from error
    if shared or not finite:
        fault = f"has the video {min(shared)} in train and in test" if shared else "holds features that are no numbers"
        raise CorpusError(f"{path} {fault}; get it anew.")

    dev = set(sorted(trained)[DEV_EVERY - 1 :: DEV_EVERY])
    utterances: list[Utterance] = []
    turns: tuple[Turn, ...] = ()
    for row in order:
        video = str(columns["video_id"][row])
        if not utterances or utterances[-1].speaker != video:
            turns = ()
        turns = (*turns, Turn(video, str(columns["text"][row])))
        utterances.append(
            Utterance(
                id=str(columns["utt_id"][row]),
                split="dev" if video in dev else "train" if video in trained else "test",
                label=labels[row],
                meld_label=None,
                speaker=video,
                turns=turns,
                dialogue=video,
                position=len(turns) - 1,
            )
        )
    corpus = Corpus("CMU-MOSI", LICENCE, utterances)
    corpus.report()
    features = {modality: np.asarray(columns[f"x_{modality}"][order], np.float32) for modality in MODALITIES}
    return Reviews(corpus, features)
