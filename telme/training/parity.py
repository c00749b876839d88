"""The TelME authors' own evaluation of their weights, mistakes included, so that their figures can be made again.

Source: `inference.py` and `utils.py` of github.com/yuntaeyang/TelME. Utterances go through all parts in groups of
four, in the table's order, and the last group may be smaller. Sound is padded to the longest clip of its group, and
the fusion lets the utterances of a group see each other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from tokenizers import Tokenizer
from torch import Tensor, nn

from telme.bundle import AudioSpec, FusionSpec, TextSpec, VisualSpec, offline_complaint
from telme.corpora import authors_media, authors_tables, decoding
from telme.corpora.authors_tables import Item
from telme.corpora.decoding import Array, DecodedFiles, decode_all
from telme.corpora.records import Utterance
from telme.features.audio import AudioFeatures
from telme.features.authors_text import AuthorsPrompter
from telme.features.video import pad
from telme.models.audio import AudioDimensions, AudioStudent
from telme.models.fusion import ASF, FusionDimensions
from telme.models.teacher import Teacher, TeacherDimensions
from telme.models.visual import VisualDimensions, VisualStudent
from telme.predictions import Heading, Predictions
from telme.progress import tracked
from telme.training import checkpoint
from telme.training.checkpoint import Checkpoint
from telme.training.errors import TrainingError

NOTE = "as the TelME authors evaluate: groups of four successive utterances, and their way of making inputs"
CORPORA = ("meld", "iemocap")
LONGEST_S = {"meld": 30.0}  # a longer clip becomes silence and blank pictures
_SILENCE = 1412  # samples of it, before padding

Waveform = npt.NDArray[np.float32]
D = TypeVar("D")
M = TypeVar("M", bound=nn.Module)
S = TypeVar("S", TextSpec, AudioSpec, VisualSpec, FusionSpec)


def reproduce(run: Path, corpora: Path) -> Iterator[Predictions]:
    """Each part's answers on the authors' test split, then those of the fusion, which their figures come from.

    run: what `telme-export import-authors` has written. corpora: folder that holds meld/ or iemocap/.
    Raises TrainingError where the run is another one or a part is damaged, CorpusError where the corpus is.
    """
    authors = _Authors(run)
    corpus = authors.corpus.lower()
    items = authors_tables.load(corpus, corpora / corpus)
    clips = _Clips.decode(corpus, [item.utterance for item in items], authors.visual, DecodedFiles(run / "decoded"))
    groups = [items[start : start + authors.group] for start in range(0, len(items), authors.group)]
    answers = [
        authors.answer(group, clips)
        for group in tracked(groups, len(groups), f"{authors.corpus} as its authors", "groups")
    ]
    truth = np.array([authors.labels.index(item.utterance.label) for item in items], np.int64)
    for part, logits in zip(("text", "audio", "visual", "fusion"), zip(*answers, strict=True), strict=True):
        fused = part == "fusion"
        heading = Heading(
            name="fusion-text-audio-visual" if fused else f"{part}-{corpus}",
            part=part,
            inputs="text + audio + visual" if fused else part,
            data=f"{authors.corpus} test",
            note=NOTE + clips.note,
            labels=authors.labels,
            grouped_by="dialogue",
        )
        yield Predictions(
            heading,
            tuple(item.utterance.id for item in items),
            tuple(item.utterance.dialogue or "" for item in items),
            truth,
            np.concatenate(logits),
        )


@dataclass(frozen=True)
class _Clips:
    """The decoded sound and pictures of a corpus; both are on disk.

    An utterance whose files cannot be read counts as silent and blank, as long clips do in the authors' code, so that
    groups stay as they are. note: how many those are.
    """

    sound: dict[str, Path]
    pictures: dict[str, Path]
    longest_s: float
    note: str

    @classmethod
    def decode(cls, corpus: str, utterances: Sequence[Utterance], spec: VisualSpec, files: DecodedFiles) -> "_Clips":
        def fetch(path: Path | None, recipe: str, make: Callable[[Path], Array]) -> Path:
            if path is None:
                raise ValueError("an utterance without a file")
            return files.fetch(path, recipe, partial(make, path))

        def heard(utterance: Utterance) -> Path:
            return fetch(utterance.audio, "sound as librosa loads it", authors_media.sound)

        def seen(utterance: Utterance) -> Path:
            span = utterance.video_span_s
            recipe = f"eight pictures as the authors choose them, {spec.size_px} px, {span}"
            make = partial(authors_media.pictures, side=spec.size_px, span_s=span)
            return fetch(utterance.video, recipe, make)

        sound = {one.id: path for one, path in decode_all(corpus, "sound", utterances, heard)}
        pictures = {one.id: path for one, path in decode_all(corpus, "pictures", utterances, seen)}
        lost = sum(one.id not in sound or one.id not in pictures for one in utterances)
        note = f"; {lost} clips that cannot be read count as silent and blank" if lost else ""
        return cls(sound, pictures, LONGEST_S.get(corpus, np.inf), note)

    def of(self, utterance: Utterance) -> tuple[Waveform, npt.NDArray[np.uint8]] | None:
        """Samples (n,) and pictures (8, S, S, 3); None where the model gets zeros for both."""
        if utterance.id not in self.sound or utterance.id not in self.pictures:
            return None
        samples = decoding.read(self.sound[utterance.id])
        if len(samples) / authors_media.SAMPLE_RATE_HZ > self.longest_s:
            return None
        return samples, decoding.read(self.pictures[utterance.id])


class _Authors:
    """The imported parts of a run, on the fastest device at hand."""

    def __init__(self, run: Path) -> None:
        self._device = Accelerator().device
        about, text, self._teacher = self._part(run / "text", Teacher, TeacherDimensions, TextSpec)
        _, audio, self._listener = self._part(run / "audio", AudioStudent, AudioDimensions, AudioSpec)
        _, self.visual, self._viewer = self._part(run / "visual", VisualStudent, VisualDimensions, VisualSpec)
        _, fusion, self._fusion = self._part(run / "fusion", ASF, FusionDimensions, FusionSpec)
        if about.corpora[0].lower() not in CORPORA or offline_complaint(text, audio, self.visual, fusion) is None:
            raise TrainingError(f"{run} was not imported from the TelME authors' release; leave out --parity.")
        self.labels, self.corpus = about.labels, about.corpora[0]
        self.group, self._beta = fusion.group, fusion.beta
        self._prompter = AuthorsPrompter(text, Tokenizer.from_file(str(run / "text" / text.tokenizer)))
        self._features = AudioFeatures(audio)

    def _part(
        self, folder: Path, module: Callable[[D], M], dimensions: type[D], kind: type[S]
    ) -> tuple[Checkpoint, S, M]:
        about, model = checkpoint.load(folder, module, dimensions)
        if not isinstance(about.preprocessing, kind):
            raise TrainingError(f"{folder} holds another part; import the authors' release again.")
        return about, about.preprocessing, model.to(self._device)

    @torch.inference_mode()
    def answer(self, group: Sequence[Item], clips: _Clips) -> tuple[npt.NDArray[np.float32], ...]:
        """Logits (n, C) of teacher, audio student, visual student and fusion for one group of n utterances."""
        media = [clips.of(item.utterance) for item in group]
        text, text_logits = self._teacher(*self._prompts(group))
        sound = self._sound([None if one is None else one[0] for one in media])
        audio, audio_logits = self._listener(sound, torch.ones_like(sound, dtype=torch.bool))
        frames = self._frames([None if one is None else one[1] for one in media])
        visual, visual_logits = self._viewer(frames, torch.ones(frames.shape[:2], device=self._device))
        there = torch.ones(len(group), device=self._device)
        logits = self._fusion(text, audio, visual, there, there, self._beta * there)
        return tuple(one.float().cpu().numpy() for one in (text_logits, audio_logits, visual_logits, logits))

    def _prompts(self, group: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Padding is on the right here and on the left there: RoBERTa answers the same."""
        prompts = [self._prompter.encode(item.utterance.turns, item.numbers) for item in group]
        ids, mask = self._prompter.batch(prompts)
        return torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device)

    def _sound(self, clips: Sequence[Waveform | None]) -> Tensor:
        """(n, T), zeros before each clip up to the group's longest."""
        silence = np.zeros(_SILENCE, np.float32)
        heard = [silence if clip is None or (one := self._features.extract(clip)) is None else one for clip in clips]
        return torch.from_numpy(self._features.batch(heard).features).to(self._device)

    def _frames(self, clips: Sequence[npt.NDArray[np.uint8] | None]) -> Tensor:
        """(n, 8, 3, S, S), normalised."""
        side = self.visual.size_px
        nothing = np.zeros((authors_media.FRAMES, 3, side, side), np.float32)
        seen = [nothing if clip is None else pad([list(clip)], self.visual).frames[0] for clip in clips]
        return torch.from_numpy(np.stack(seen)).to(self._device)
