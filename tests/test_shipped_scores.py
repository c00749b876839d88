"""The bundle in the package answers as well as its manifest says: nothing was lost between training and shipping."""

from pathlib import Path

import pytest

from telme.bundle import COMPACT, Bundle
from telme.corpora import meld, ravdess, waveforms
from telme.corpora.decoding import DecodedFiles
from telme.evaluation import Evaluation
from telme.features.text import Turn
from telme.runtime.recognizer import Recognizer
from telme.training import exported
from telme.training.answers import answers
from telme.training.encodings import TextPart
from telme.training.teacher import indices

pytestmark = [pytest.mark.slow, pytest.mark.corpora]

# What rounding to int8 may cost: two clips of EmoDB's 112 speak for 0.018.
TOLERANCE = {"audio-emodb": 0.03, "audio-ravdess": 0.02, "visual-fer2013": 0.01}


def promised(bundle: Bundle, part: str, data: str, metric: str) -> float:
    scores = bundle.manifest.training.scores
    return next(s.value for s in scores if (s.part, s.metric) == (part, metric) and s.data.lower().startswith(data))


def test_voices_and_faces(corpora: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(COMPACT)
    parts, _ = exported.parts(bundle)
    del parts["text"]
    found = {one.heading.name: one for one in answers(parts, None, corpora, DecodedFiles(tmp_path / "decoded"))}
    assert found.keys() == TOLERANCE.keys()
    for name, tolerance in TOLERANCE.items():
        part, corpus = name.split("-")
        expected = promised(bundle, part, f"{corpus} test", "accuracy")
        assert found[name].evaluation.metrics()["accuracy"] == pytest.approx(expected, abs=tolerance)


def test_texts(corpora: Path) -> None:
    bundle = Bundle.open(COMPACT)
    text = exported.parts(bundle)[0]["text"]
    assert isinstance(text, TextPart)
    utterances = meld.load(corpora / "meld").split("dev")
    logits = text.logits(text.encode(utterances).vectors).numpy()
    found = Evaluation.of(logits, indices(utterances, text.about.labels), text.about.labels)
    expected = promised(bundle, "text", "meld dev", "weighted_f1")
    assert found.metrics()["weighted_f1"] == pytest.approx(expected, abs=0.01)


def test_plain_words_do_not_drown_the_voice(corpora: Path) -> None:
    recognizer = Recognizer.load()
    takes = [take for take in ravdess.load(corpora / "ravdess").split("dev") if take.meld_label != "neutral"]
    right = dict.fromkeys(("fused", "voice"), 0)
    for take in takes:
        assert take.audio is not None
        assert take.said is not None
        heard = recognizer.recognize(text=[Turn(take.speaker, take.said)], audio=waveforms.read(take.audio))
        voice = heard.modality_scores["audio"]
        right["fused"] += heard.emotion == take.meld_label
        right["voice"] += max(voice, key=voice.__getitem__) == take.meld_label
    assert right["voice"] > 0.7 * len(takes)
    assert right["fused"] > 0.8 * right["voice"]
