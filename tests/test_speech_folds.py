"""Who is heard in which fold of bench/speech_folds.py."""

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from speech_folds import FOLDS, rotated

from telme.corpora.records import Utterance
from telme.corpora.waveforms import Clip


@given(actors=st.integers(4, 24), takes=st.integers(1, 3))
def test_every_speaker_is_tested_once_and_never_trained_on_meanwhile(actors: int, takes: int) -> None:
    clips = [
        Clip(
            corpus,
            Utterance(f"{corpus}-{actor}-{take}", "train", "joy", "joy", speaker=f"{corpus}-{actor:02}"),
            np.zeros(1, np.float32),
        )
        for corpus, actor, take in product(("ravdess", "emodb"), range(actors), range(takes))
    ]
    tested: list[str] = []
    folds = rotated(clips)
    assert len(folds) == FOLDS
    for fold in folds:
        speakers = {
            split: {clip.utterance.speaker for clip in fold if clip.utterance.split == split}
            for split in ("train", "dev", "test")
        }
        assert sorted(clip.utterance.id for clip in fold) == sorted(clip.utterance.id for clip in clips)
        assert sum(map(len, speakers.values())) == 2 * actors
        assert all(speakers.values())
        tested += speakers["test"]
    assert sorted(tested) == sorted({clip.utterance.speaker for clip in clips})
