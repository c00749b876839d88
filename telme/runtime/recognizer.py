"""Runs a bundle: text, sound and picture of an utterance in, its emotion out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Self, get_args

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from telme import bundle as bundles
from telme.bundle import Backend, Bundle, BundleError, Modality, Part
from telme.features.audio import AudioFeatures
from telme.features.faces import FaceDetector
from telme.features.sightings import Sighting
from telme.features.text import Prompter, Turn
from telme.features.video import VideoFeatures
from telme.hub import open_bundle
from telme.labels import valence_arousal
from telme.runtime import backends, fit, tensors
from telme.runtime.encoders import AudioEncoder, Encoded, Frame, TextEncoder, VisualEncoder, batch_max
from telme.runtime.fusion import STUDENTS, Encodings, Fusion
from telme.runtime.model import Float32, Model
from telme.runtime.recognition import Recognition

BACKENDS = ("auto", *get_args(Backend))
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Inputs:
    """One utterance. What is None is missing.

    text: the dialogue's turns, oldest first; the last one is the utterance.
    audio: (n,) float32 samples, 16 kHz, one channel, in [-1, 1].
    frames: what `Recognizer.prepare_frame` made of the picture, in order.
    text_confidence: how sure a speech recogniser was of the last turn's words, in [0, 1].
    """

    text: Sequence[Turn] | None = None
    audio: Float32 | None = None
    frames: Sequence[Frame] | None = None
    text_confidence: float | None = None


class Recognizer:
    """A loaded bundle. Every method may be called from several threads at once.

    `recognize` does everything. A live system calls the stages one by one: `prepare_frame` as frames arrive,
    `encode_audio` and `encode_visual` while speech is still being transcribed, then `encode_text` and `fuse`.
    """

    def __init__(
        self,
        bundle: Bundle,
        text: TextEncoder,
        audio: AudioEncoder,
        visual: VisualEncoder,
        fusion: Fusion,
        video: VideoFeatures,
    ) -> None:
        self.bundle = bundle
        self._text = text
        self._audio = audio
        self._visual = visual
        self._fusion = fusion
        self._video = video
        self._labels = bundle.manifest.labels

    @classmethod
    def load(cls, bundle: Path | str | Bundle | None = None, backend: str = "auto", threads: int = 1) -> Self:
        """Load a bundle.

        bundle: a folder, `hf://org/name`, one already opened, or None for the compact one that ships with the package.
        backend: "auto" runs each part by what it was exported for; another one of BACKENDS demands that it is that.
        threads: cores that one part may use; an engine uses the GPU.
        Raises UnfitError when the bundle was made for another machine, BundleError when it cannot be used at all,
        ValueError for an unknown backend.
        """
        if backend not in BACKENDS:
            raise ValueError(f"There is no backend {backend!r} for bundles; choose one of {', '.join(BACKENDS)}.")
        if not isinstance(bundle, Bundle):
            bundle = open_bundle(bundles.COMPACT if bundle is None else bundle)
        manifest = bundle.manifest
        if complaint := bundles.offline_complaint(manifest.text, manifest.audio, manifest.visual, manifest.fusion):
            raise BundleError(complaint)
        _demand_backend(bundle, backend)
        tensors.demand(bundle)
        fit.demand(bundle)

        def model(part: Part) -> Model:
            return backends.load(bundle.path(part), part, threads)

        parts = manifest.parts
        models = {
            "text": model(parts.text),
            "audio": model(parts.audio),
            "visual": model(parts.visual),
            "fusion": model(parts.fusion),
        }
        return cls.of(bundle, models, threads)

    @classmethod
    def of(cls, bundle: Bundle, models: Mapping[str, Model], threads: int = 1) -> Self:
        """A recogniser whose four parts are `models` and whose features are made as the bundle says.

        models: "text", "audio", "visual" and "fusion", with the inputs and outputs that the manifest describes.
        threads: cores that the face detector may use.
        """
        manifest, parts = bundle.manifest, bundle.manifest.parts
        tokenizer = _tokenizer(bundle.folder / manifest.text.tokenizer)
        detector = FaceDetector(bundle.path(parts.face_detector), threads=threads) if parts.face_detector else None
        video = VideoFeatures(manifest.visual, detector)
        return cls(
            bundle,
            TextEncoder(models["text"], batch_max(parts.text), Prompter(manifest.text, tokenizer)),
            AudioEncoder(models["audio"], batch_max(parts.audio), AudioFeatures(manifest.audio)),
            VisualEncoder(models["visual"], batch_max(parts.visual), video),
            Fusion(
                models["fusion"],
                batch_max(parts.fusion),
                manifest.fusion,
                _vector_sizes(parts.fusion),
            ),
            video,
        )

    def prepare_frame(self, rgb: Frame) -> Frame | None:
        """Make one picture ready for `frames`; None where it shows no face and the bundle needs one.

        rgb: (height, width, 3), uint8.
        """
        return self._video.prepare(rgb)

    def see(self, rgb: Frame) -> list[Sighting]:
        """Every face of one picture, the largest first, each ready for `frames`; see `VideoFeatures.see`.

        rgb: (height, width, 3), uint8.
        """
        return self._video.see(rgb)

    def encode_text(self, turns: Sequence[Turn]) -> Encoded | None:
        """turns: the dialogue, oldest first; the last is the utterance. None where its text is blank."""
        return self._text.encode([turns])[0]

    def encode_audio(self, samples: Float32) -> Encoded | None:
        """samples: (n,) float32, 16 kHz, in [-1, 1]. None where they are too few."""
        return self._audio.encode([samples])[0]

    def encode_visual(self, frames: Sequence[Frame]) -> Encoded | None:
        """frames: results of `prepare_frame`, in order. None where there are none."""
        return self._visual.encode([frames])[0]

    def encode_texts(self, items: Sequence[Sequence[Turn]]) -> list[Encoded | None]:
        """`encode_text` of several utterances."""
        return self._text.encode(items)

    def encode_audios(self, items: Sequence[Float32]) -> list[Encoded | None]:
        """`encode_audio` of several utterances."""
        return self._audio.encode(items)

    def encode_visuals(self, items: Sequence[Sequence[Frame]]) -> list[Encoded | None]:
        """`encode_visual` of several utterances."""
        return self._visual.encode(items)

    def fuse(
        self,
        *,
        text: Encoded | None = None,
        audio: Encoded | None = None,
        visual: Encoded | None = None,
        text_confidence: float | None = None,
    ) -> Recognition:
        """Bring the modalities together.

        With text, sound and picture shift the teacher's vector (ASF); what is missing shifts nothing. Without text
        there is nothing to shift, and the students' calibrated log-probabilities are averaged; how sure of that one may
        be is a calibration of its own.
        text_confidence: how sure the speech recogniser was, in [0, 1]; a bundle may let doubtful text be shifted
        further (`fusion.unsure`).
        Raises ValueError when all are missing.
        """
        return self.fuse_batch([Encodings(text, audio, visual, text_confidence)])[0]

    def fuse_batch(self, items: Sequence[Encodings]) -> list[Recognition]:
        """`fuse` of several utterances. Raises ValueError when an item has no modality at all."""
        if not all(item.present() for item in items):
            raise ValueError(
                "Text, audio and frames are all missing, too short or blank: there is nothing to recognise."
            )
        started = perf_counter()
        shifted = [item for item in items if item.text is not None]
        fused = iter(self._fusion.logits(shifted))
        elapsed_ms = 1000 * (perf_counter() - started) / max(len(shifted), 1)
        return [
            self._recognition(item.present(), None if item.text is None else next(fused), elapsed_ms) for item in items
        ]

    def recognize(
        self,
        *,
        text: Sequence[Turn] | None = None,
        audio: Float32 | None = None,
        frames: Sequence[Frame] | None = None,
        text_confidence: float | None = None,
    ) -> Recognition:
        """Recognise one utterance; see `Inputs` for the arguments.

        Raises ValueError when all modalities are missing, too short or blank, and TypeError or ValueError when one is
        something else than `Inputs` describes.
        """
        return self.recognize_batch([Inputs(text, audio, frames, text_confidence)])[0]

    def recognize_batch(self, items: Sequence[Inputs]) -> list[Recognition]:
        """Recognise several utterances; the same answers as one by one, to float tolerance.

        Raises ValueError when an item has no modality at all; else as `recognize` does.
        """
        text = self._text.encode([item.text for item in items])
        audio = self._audio.encode([item.audio for item in items])
        visual = self._visual.encode([item.frames for item in items])
        confidences = [item.text_confidence for item in items]
        return self.fuse_batch([Encodings(*each) for each in zip(text, audio, visual, confidences, strict=True)])

    def warm_up(self) -> None:
        """Run every part once, so that the first utterance is as fast as the next ones."""
        spec = self.bundle.manifest.visual
        shape = (spec.size_px, spec.size_px) if spec.channels == 1 else (spec.size_px, spec.size_px, spec.channels)
        self.prepare_frame(np.zeros((480, 640, 3), np.uint8))
        self.recognize(
            text=[Turn("a", "Hello.")], audio=np.zeros(16_000, np.float32), frames=[np.zeros(shape, np.uint8)]
        )

    def _recognition(
        self, present: Mapping[Modality, Encoded], fused: Float32 | None, elapsed_ms: float
    ) -> Recognition:
        temperatures = self.bundle.manifest.calibration
        heads = {
            modality: log_softmax(encoded.logits / getattr(temperatures, modality))
            for modality, encoded in present.items()
        }
        elapsed: dict[str, float] = {modality: encoded.elapsed_ms for modality, encoded in present.items()}
        if fused is None:
            together = temperatures.audio_visual if len(heads) > 1 else 1.0
            log_scores = log_softmax(np.mean(list(heads.values()), axis=0) / together)
        else:
            log_scores = log_softmax(fused / temperatures.fused)
            elapsed["fusion"] = elapsed_ms
        scores = np.exp(log_scores)
        if not all(np.isfinite(each).all() for each in (scores, *heads.values())):
            raise BundleError(
                f"{self.bundle.folder} gives scores that are not finite (NaN or infinity); export it again."
            )
        valence, arousal = valence_arousal(scores, self._labels)
        best = int(scores.argmax())
        return Recognition(
            emotion=self._labels[best],
            scores=self._named(log_scores),
            confidence=float(scores[best]),
            valence=valence,
            arousal=arousal,
            modality_scores={modality: self._named(head) for modality, head in heads.items()},
            elapsed_ms=elapsed,
        )

    def _named(self, log_scores: Float64) -> dict[str, float]:
        return dict(zip(self._labels, np.exp(log_scores).tolist(), strict=True))


def log_softmax(logits: npt.NDArray[np.floating]) -> Float64:
    """Log-probabilities (C,) of logits (C,)."""
    shifted = logits.astype(np.float64) - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _demand_backend(bundle: Bundle, backend: str) -> None:
    parts = bundle.manifest.parts
    found = {part.backend for part in (parts.text, parts.audio, parts.visual, parts.fusion)}
    if backend != "auto" and found != {backend}:
        raise BundleError(
            f"{bundle.folder} was exported for {' and '.join(sorted(found))}, not for {backend}; choose that backend, "
            f"or export it again with --target {'onnx' if backend == 'onnxruntime' else backend}."
        )


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise BundleError(f"{path} is no tokenizer ({error}); export the bundle again.") from error


def _vector_sizes(fusion: Part) -> dict[str, int]:
    """Length of each student's utterance vector, read off the fusion's inputs."""
    shapes = {tensor.name: tensor.shape for tensor in fusion.inputs}
    return {name: int(shapes[f"{name}_vector"][1]) for name in STUDENTS}
