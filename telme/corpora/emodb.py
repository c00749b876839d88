"""Berlin EmoDB (Burkhardt et al., Interspeech 2005): acted German speech, seven emotions, ten speakers.

A file's name says everything: `SSTTTEv`, with SS the speaker, TTT the sentence, E the emotion's first letter in
German and v the version.
"""

import re
from collections import Counter
from pathlib import Path

from telme.corpora.clip_names import named_clips
from telme.corpora.records import Corpus, CorpusError, Split, Utterance
from telme.labels import EMODB

LICENCE = "free for research"
LABELS = ("anger", "boredom", "disgust", "fear", "joy", "neutral", "sadness")

_LETTERS = {
    "W": "anger",  # Wut
    "L": "boredom",  # Langeweile
    "E": "disgust",  # Ekel
    "A": "fear",  # Angst
    "F": "joy",  # Freude
    "N": "neutral",  # neutral
    "T": "sadness",  # Trauer
}
_NAME = re.compile(r"(\d\d)[ab]\d\d([WLEAFNT])[a-z]?")
_SPLITS: dict[str, Split] = {"12": "dev", "13": "test", "14": "test"}


def load(folder: Path) -> Corpus:
    """Read the clips; files whose name says something else are counted and reported.

    folder: holds the clips as .wav or .flac, in it or below it.
    Splits by speaker: 12 dev, 13 and 14 test, the others train. Boredom has no label in MELD's terms.
    Raises CorpusError when the folder holds no clip.
    """
    utterances: list[Utterance] = []
    dropped: Counter[str] = Counter()
    for path, match in named_clips(folder, _NAME, "EmoDB's", dropped):
        speaker, label = match[1], _LETTERS[match[2]]
        utterances.append(
            Utterance(
                id=path.stem,
                split=_SPLITS.get(speaker, "train"),
                label=label,
                meld_label=EMODB.to_meld.get(label),
                speaker=f"speaker-{speaker}",
                audio=path,
            )
        )
    if not utterances:
        raise CorpusError(f"{folder} holds no EmoDB clip such as 03a01Wa.wav; give its audio folder.")
    corpus = Corpus("EmoDB", LICENCE, utterances, dropped)
    corpus.report()
    return corpus
