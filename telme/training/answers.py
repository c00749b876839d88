"""What a model's parts answer on the test splits of the corpora that they learnt from."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from telme.bundle import MODALITIES, FusionSpec, Modality, Spec
from telme.corpora import fer2013, footage, waveforms
from telme.corpora.conversations import CONVERSATIONS
from telme.corpora.decoding import DecodedFiles
from telme.corpora.records import Split, Utterance, grouping
from telme.features.text import Turn
from telme.models.fusion import ASF, FusionDimensions
from telme.predictions import Heading, Predictions
from telme.training import checkpoint, decoded_clips
from telme.training.company import Batch, Material, Pairing, places_of
from telme.training.encodings import AudioPart, Encodings, Part, TextPart, VisualPart
from telme.training.errors import TrainingError
from telme.training.speech import CORPORA, labelled
from telme.training.students import without_text
from telme.training.teacher import mishear
from telme.training.visual import Stills

log = logging.getLogger(__name__)

PARTS: tuple[checkpoint.PartName, ...] = ("text", "audio", "visual", "fusion")
COMBINATIONS: tuple[tuple[Modality, ...], ...] = (
    ("text",),
    ("text", "audio"),
    ("text", "visual"),
    ("text", "audio", "visual"),
    ("audio",),
    ("visual",),
    ("audio", "visual"),
)

PAIRING_SEED = 42  # the same for every run: runs can only be compared in the same company
_SPLIT: Split = "test"
_THEMSELVES = "of the utterances themselves"
_OF_OTHERS = "of other corpora paired by label, which is easier than life"
_COMPANIONS: Mapping[Modality, str] = {"audio": "speech", "visual": "faces"}
CORRECTED = "imported weights with corrected inputs, unlike those that they learnt from (see --parity)"
_PRESCRIBED = "their own words, from which nobody can tell the emotion"
_OF_ANY_EMOTION = "speech and faces of random emotions: how much wrong company harms"


@dataclass(frozen=True)
class Encoded:
    """The test utterances of one or several corpora as one part sees them: `utterances[i]` is `encodings[i]`."""

    utterances: Sequence[Utterance]
    encodings: Encodings

    @classmethod
    def joined(cls, several: Sequence["Encoded"]) -> "Encoded":
        vectors = torch.cat([one.encodings.vectors for one in several])
        truth = np.concatenate([one.encodings.truth for one in several])
        return cls([utterance for one in several for utterance in one.utterances], Encodings(vectors, truth))


def trained_parts(run: Path) -> dict[checkpoint.PartName, checkpoint.Checkpoint]:
    """What the run has trained so far. Raises TrainingError when that is nothing, or a part is damaged."""
    found = {part: checkpoint.read(run / part) for part in PARTS if (run / part / checkpoint.ABOUT).is_file()}
    if not found:
        raise TrainingError(f"{run} holds no trained part; give a folder that telme-train has written.")
    return found


@dataclass(frozen=True)
class FusionPart:
    """The fusion, and how sure it and the students may be.

    temperature, students_temperature: as in a checkpoint.
    note: what a reader of its figures must know.
    logits: of a batch: (B, C) float32, not calibrated.
    """

    labels: tuple[str, ...]
    temperature: float
    students_temperature: float
    note: str
    logits: Callable[[Batch], npt.NDArray[np.float32]]

    @classmethod
    def trained(cls, folder: Path) -> Self:
        """folder: of a run's fusion part. Raises TrainingError when it is missing or damaged."""
        about, fusion = checkpoint.load(folder, ASF, FusionDimensions)
        spec = about.preprocessing
        if not isinstance(spec, FusionSpec):
            raise ValueError(f"{folder} is no fusion part")
        fusion.dimensions = replace(fusion.dimensions, group=spec.corrected().group)
        note = _about_inputs(spec)
        return cls(
            about.labels, about.temperature, about.students_temperature, note, partial(_fused, fusion, spec.beta)
        )


@torch.inference_mode()
def _fused(fusion: ASF, beta: float, batch: Batch) -> npt.NDArray[np.float32]:
    sizes = fusion.dimensions
    vectors = batch.vectors(sizes.text, sizes.audio, sizes.visual)
    logits: Tensor = fusion(*vectors[:5], torch.full_like(batch.audio_present, beta))
    return logits.numpy()


def predict(run: Path, corpora: Path) -> Iterator[Predictions]:
    """`answers` of the parts that a run has trained.

    corpora: folder that holds meld/, ravdess/, …
    Raises TrainingError when the run has no part or a damaged one, CorpusError when a corpus is missing.
    """
    found = trained_parts(run)
    loaders: Mapping[Modality, Callable[[Path], Part]] = {
        "text": TextPart.trained,
        "audio": AudioPart.trained,
        "visual": VisualPart.trained,
    }
    parts = {modality: load(run / modality) for modality, load in loaders.items() if modality in found}
    fusion = FusionPart.trained(run / "fusion") if "fusion" in found else None
    yield from answers(parts, fusion, corpora, decoded_clips.kept(run))


def answers(
    parts: Mapping[Modality, Part], fusion: FusionPart | None, corpora: Path, files: DecodedFiles
) -> Iterator[Predictions]:
    """Each part's answers on its own corpora, then those of every combination of modalities.

    corpora: folder that holds meld/, ravdess/, …
    files: where the clips of conversations are kept, decoded.
    Raises CorpusError when a corpus is missing, TrainingError when it has nothing to test on.
    """
    encoded: dict[Modality, Encoded] = {}
    sentences: dict[str, Encoded] = {}
    for modality, part in parts.items():
        found = dict(_encode(part, corpora, files))
        for corpus, its in found.items():
            log.info("%s part: %d items of %s encoded", modality, len(its.utterances), corpus)
            yield _alone(f"{modality}-{corpus.lower()}", modality, part, f"{corpus} {_SPLIT}", its)
            if modality == "audio" and all(utterance.said for utterance in its.utterances):
                sentences[corpus] = its
        if found:
            encoded[modality] = Encoded.joined(list(found.values()))
        if isinstance(part, TextPart):
            yield from _misheard(part, corpora)
    if fusion is not None and len(encoded) == len(MODALITIES):
        yield from _together(fusion, parts, encoded)
        for corpus, speech in sentences.items():
            yield _spoken(fusion, parts["text"], corpus, speech, encoded["visual"].encodings.vectors.shape[1])
    elif fusion is not None:
        log.warning("The fusion is left out: a modality has no test items to join.")


def _encode(part: Part, corpora: Path, files: DecodedFiles) -> Iterator[tuple[str, Encoded]]:
    for name in part.about.corpora:
        key = name.lower()
        if isinstance(part, TextPart) and key in CONVERSATIONS:
            utterances = CONVERSATIONS[key].load(corpora / key, None).split(_SPLIT)
            encodings = part.encode(utterances)
        elif isinstance(part, VisualPart) and key in CONVERSATIONS:
            filmed = CONVERSATIONS[key].load(corpora / key, corpora / key).split(_SPLIT)
            seen = footage.load(key, filmed, part.spec, files)
            utterances = [clip.utterance for clip in seen]
            encodings = part.watch(seen)
        elif isinstance(part, AudioPart) and key in CORPORA:
            spoken = CORPORA[key](corpora / key).split(_SPLIT)
            kept = files if key in CONVERSATIONS else None
            clips = labelled(
                waveforms.load(key, spoken, part.spec.min_s, part.spec.source_rate_hz, kept), part.about.labels
            )
            utterances = [clip.utterance for clip in clips]
            encodings = part.encode(clips)
        elif isinstance(part, VisualPart) and name == "FER2013":
            faces = fer2013.load(corpora / "fer2013")
            utterances = [face for face in faces.corpus.split(_SPLIT) if face.meld_label is not None]
            encodings = part.encode(Stills(faces, _SPLIT, part.spec))
        else:
            log.warning("The %s part learnt from %s, on which it cannot be evaluated here.", part.about.part, name)
            continue
        if not utterances:
            raise TrainingError(f"{corpora} has no test item of {name} to evaluate on; complete that corpus.")
        if len(utterances) != len(encodings):
            raise ValueError(f"{len(utterances)} utterances of {name}, but {len(encodings)} encodings")
        yield name, Encoded(utterances, encodings)


def _misheard(part: TextPart, corpora: Path) -> Iterator[Predictions]:
    """The teacher's answers to conversations as a recogniser might have written them: what the live system reads."""
    for name in part.about.corpora:
        key = name.lower()
        if key in CONVERSATIONS:
            conversations = CONVERSATIONS[key].load(corpora / key, None)
            utterances = mishear(conversations.split(_SPLIT), conversations)
            encoded = Encoded(utterances, part.encode(utterances))
            yield _alone(f"text-{key}-misheard", "text", part, f"{name} {_SPLIT} with 20 % word errors", encoded)


def _alone(name: str, modality: Modality, part: Part, data: str, encoded: Encoded) -> Predictions:
    grouped_by, groups = grouping(encoded.utterances)
    heading = Heading(
        name=name,
        part=modality,
        inputs=modality,
        data=data,
        note=_about_inputs(part.about.preprocessing),
        labels=part.about.labels,
        temperature=part.about.temperature,
        grouped_by=grouped_by,
    )
    logits = part.logits(encoded.encodings.vectors).numpy()
    ids = tuple(utterance.id for utterance in encoded.utterances)
    return Predictions(heading, ids, groups, encoded.encodings.truth, logits)


def _about_inputs(spec: Spec) -> str:
    """What a reader must know about how the inputs were made: usually nothing."""
    return CORRECTED if spec.offline() else ""


def _together(
    fusion: FusionPart, parts: Mapping[Modality, Part], encoded: Mapping[Modality, Encoded]
) -> Iterator[Predictions]:
    """The fusion where there is text, the students' heads where there is none, each on the same utterances of text."""
    text, corpus = encoded["text"], parts["text"].about.corpora[0]
    ids = tuple(utterance.id for utterance in text.utterances)
    grouped_by, groups = grouping(text.utterances)

    def answered(name: str, inputs: str, note: str, logits: npt.NDArray[np.float32], by_fusion: bool) -> Predictions:
        heading = Heading(
            name=name,
            part="fusion" if by_fusion else "students",
            inputs=inputs,
            data=f"labels of {corpus} {_SPLIT}" if not by_fusion and _THEMSELVES not in note else f"{corpus} {_SPLIT}",
            note="; ".join(filter(None, (note, fusion.note))),
            labels=fusion.labels,
            temperature=fusion.temperature if by_fusion else 1.0,
            grouped_by=grouped_by,
        )
        return Predictions(heading, ids, groups, text.encodings.truth, logits)

    for present in COMBINATIONS:
        batch, note = company(encoded, present)
        by_fusion = "text" in present
        logits = fusion.logits(batch) if by_fusion else without_text(parts, batch, fusion.students_temperature)
        name = "-".join(("fusion" if by_fusion else "students", *present))
        yield answered(name, " + ".join(present), note, logits, by_fusion)
    material = Material(*(encoded[modality].encodings for modality in ("text", "audio", "visual")))
    batch = material.pair(Pairing(unmatched=1.0), np.random.default_rng(PAIRING_SEED))
    yield answered(
        "fusion-random-company", "text + audio + visual", _OF_ANY_EMOTION, fusion.logits(batch), by_fusion=True
    )


def _spoken(fusion: FusionPart, text: Part, corpus: str, speech: Encoded, visual: int) -> Predictions:
    """The fusion's answers where a corpus's prescribed sentences are all that was said, and nothing is seen.

    visual: length of a face's vector.
    """
    if not isinstance(text, TextPart):
        raise ValueError(f"{text.about.part} is no text part")
    read = text.encode(
        [replace(one, turns=(Turn(one.speaker, one.said),)) for one in speech.utterances if one.said is not None]
    )
    batch = Batch(
        text=read.vectors,
        audio=speech.encodings.vectors,
        visual=torch.zeros(len(read), visual),
        audio_present=torch.ones(len(read)),
        visual_present=torch.zeros(len(read)),
        confidence=torch.ones(len(read)),
        truth=torch.from_numpy(read.truth),
    )
    grouped_by, groups = grouping(speech.utterances)
    heading = Heading(
        name=f"fusion-text-audio-{corpus.lower()}",
        part="fusion",
        inputs="text + audio",
        data=f"{corpus} {_SPLIT}",
        note="; ".join(filter(None, (_PRESCRIBED, fusion.note))),
        labels=fusion.labels,
        temperature=fusion.temperature,
        grouped_by=grouped_by,
    )
    return Predictions(heading, read.ids, groups, read.truth, fusion.logits(batch))


def company(encoded: Mapping[Modality, Encoded], present: Sequence[Modality]) -> tuple[Batch, str]:
    """Every text with the speech and the face that belong to it, and how they were found.

    An utterance's own clips where the corpora have them; else clips and faces of others, paired by label.
    present: the modalities that are not left out.
    """
    pairing = Pairing(float("audio" not in present), float("visual" not in present))
    material = Material(*(encoded[modality].encodings for modality in ("text", "audio", "visual")))
    batch = material.pair(pairing, np.random.default_rng(PAIRING_SEED))
    wanted = [utterance.id for utterance in encoded["text"].utterances]
    own: list[str] = []
    others: list[str] = []
    for modality, what in _COMPANIONS.items():
        if modality not in present:
            continue
        places = places_of(wanted, [utterance.id for utterance in encoded[modality].utterances])
        if (places >= 0).any():
            vectors, there = encoded[modality].encodings.vectors[places], torch.from_numpy(places >= 0).float()
            batch = batch._replace(**{modality: vectors, f"{modality}_present": there})
            own.append(what)
        else:
            others.append(what)
    notes = [f"{' and '.join(what)} {whose}" for what, whose in ((own, _THEMSELVES), (others, _OF_OTHERS)) if what]
    return batch, "; ".join(notes)
