"""What is to be exported of a trained model, and the questions that each part is compared on."""

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TypeVar

from torch import nn

from export import signatures
from export.onnx import Signature
from export.parity import Answer
from export.part import PartName, Plan
from export.samples import Samples
from export.torch_model import TorchModel
from export.trained import Trained
from telme.features.audio import AudioFeatures
from telme.features.text import Prompter
from telme.features.video import VideoFeatures
from telme.runtime.encoders import AudioEncoder, Encoded, Encoder, TextEncoder, VisualEncoder
from telme.runtime.fusion import Encodings, Fusion
from telme.runtime.model import Array, Model

R = TypeVar("R")
F = TypeVar("F")

# Utterances that a module is traced with: no dimension may be 1 or equal another, and there are 1 to 3 pictures.
TRACED = 4


def plans(trained: Trained, samples: Samples, video: VideoFeatures, calibration: Callable[[], Samples]) -> list[Plan]:
    """One plan per part. Encoders are asked about the samples, the fusion about what the trained encoders say.

    calibration: other samples, from which the ranges of activations are known; called where they are needed.
    """
    specifications = trained.specifications
    prompter = Prompter(specifications.text, trained.tokenizer)
    speech = AudioFeatures(specifications.audio)

    def text(model: Model, batch: int) -> TextEncoder:
        return TextEncoder(model, batch, prompter)

    def audio(model: Model, batch: int) -> AudioEncoder:
        return AudioEncoder(model, batch, speech)

    def visual(model: Model, batch: int) -> VisualEncoder:
        return VisualEncoder(model, batch, video)

    encoders = (
        _encoder(
            "text",
            trained.text,
            signatures.text(specifications.text, trained.text.dimensions),
            text,
            samples.text,
            lambda: calibration().text,
        ),
        _encoder(
            "audio",
            trained.audio,
            signatures.audio(specifications.audio, trained.audio.dimensions),
            audio,
            samples.audio,
            lambda: calibration().audio,
        ),
        _encoder(
            "visual",
            trained.visual,
            signatures.visual(specifications.visual, trained.visual.dimensions),
            visual,
            samples.frames,
            lambda: calibration().frames,
        ),
    )
    return [plan for plan, _ in encoders] + [_fusion(trained, *(said for _, said in encoders))]


def _encoder(
    name: PartName,
    module: nn.Module,
    signature: Signature,
    build: Callable[[Model, int], Encoder[R, F]],
    raws: Sequence[R],
    others: Callable[[], Sequence[R]],
) -> tuple[Plan, Sequence[Encoded]]:
    """The plan, and what the trained module says of the samples."""
    trained = build(TorchModel(module, signature), 1)
    features = [item for raw in raws[:TRACED] if (item := trained.extract(raw)) is not None]

    def ask(model: Model, batch: int) -> list[Answer]:
        said = build(model, batch).encode(raws)
        return [Answer(encoded.vector, encoded.logits) for encoded in said if encoded is not None]

    def calibration() -> list[dict[str, Array]]:
        return [trained.collate([item]) for raw in others() if (item := trained.extract(raw)) is not None]

    said = [encoded for encoded in trained.encode(raws) if encoded is not None]
    return Plan(name, module, signature, trained.collate(features), ask, calibration), said


def _fusion(trained: Trained, text: Sequence[Encoded], audio: Sequence[Encoded], visual: Sequence[Encoded]) -> Plan:
    """Texts, sounds and pictures of different people side by side, with and without sound and picture."""
    sizes = trained.fusion.dimensions
    signature = signatures.fusion(sizes)
    heard_and_seen = cycle([(True, True), (True, False), (False, True), (False, False)])
    items = [
        Encodings(t, a if heard else None, v if seen else None)
        for t, a, v, (heard, seen) in zip(text, audio, visual, heard_and_seen, strict=False)
    ]

    def fusion(model: Model, batch: int) -> Fusion:
        return Fusion(model, batch, trained.specifications.fusion, {"audio": sizes.audio, "visual": sizes.visual})

    def ask(model: Model, batch: int) -> list[Answer]:
        return [Answer(logits, logits) for logits in fusion(model, batch).logits(items)]

    collate = fusion(TorchModel(trained.fusion, signature), 1).collate

    def calibration() -> list[dict[str, Array]]:
        return [collate([item]) for item in items]

    return Plan("fusion", trained.fusion, signature, collate(items[:TRACED]), ask, calibration)
