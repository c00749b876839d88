"""All parts of a bundle together, compared with the trained modules together: from real inputs to scores."""

from itertools import cycle

import numpy as np

from export import parity, signatures
from export.errors import ExportError
from export.parity import Answer, Limits
from export.samples import Samples
from export.torch_model import CPU, Place, TorchModel
from export.trained import Trained
from telme.bundle import Agreement, Bundle, Manifest
from telme.runtime.recognition import Recognition
from telme.runtime.recognizer import Inputs, Recognizer

# Logits of an utterance in doubt are short, so that an error which changes nothing turns them further than it turns the
# long vectors that single parts are judged by.
MIN_COSINE = 0.9
SMALLEST = 1e-12  # a probability below it counts as it, so that its logarithm is no infinity


def models(trained: Trained, place: Place = CPU) -> dict[str, TorchModel]:
    """The trained modules where a recogniser expects a bundle's parts."""
    of = trained.specifications
    parts = {
        "text": (trained.text, signatures.text(of.text, trained.text.dimensions)),
        "audio": (trained.audio, signatures.audio(of.audio, trained.audio.dimensions)),
        "visual": (trained.visual, signatures.visual(of.visual, trained.visual.dimensions)),
        "fusion": (trained.fusion, signatures.fusion(trained.fusion.dimensions)),
    }
    return {name: TorchModel(module, signature, place) for name, (module, signature) in parts.items()}


def agreement(trained: Trained, bundle: Bundle, samples: Samples) -> Agreement:
    """How well the bundle recognises what the modules recognise, with every modality there and with one missing.

    The modules answer one utterance at a time, the bundle as many as it takes at once.
    Raises UnfitError where this machine cannot run the bundle.
    """
    exported, reference = Recognizer.load(bundle), Recognizer.of(bundle, models(trained))
    items = utterances(samples)
    wanted = [reference.recognize_batch([item])[0] for item in items]
    found = exported.recognize_batch(items)
    compared = parity.compare(*([_answer(one) for one in answers] for answers in (wanted, found)))
    return Agreement(**compared.model_dump(include=set(Agreement.model_fields)))


def demand(manifest: Manifest, found: Agreement) -> None:
    """Raises ExportError where the parts together agree on fewer emotions than the loosest of them may by itself."""
    precisions = [part.precision for _, part in manifest.parts.named() if part.parity is not None]
    limits = Limits(MIN_COSINE, min(parity.LIMITS[precision].argmax_agreement for precision in precisions))
    if found.min_cosine < limits.min_cosine or found.argmax_agreement < limits.argmax_agreement:
        raise ExportError(
            f"The parts together stray from the trained ones: cosine {found.min_cosine:.4f} (at least "
            f"{limits.min_cosine}), same emotion on {found.argmax_agreement:.1%} of {found.items} items (at least "
            f"{limits.argmax_agreement:.0%}); choose a finer --precision for one of them."
        )


def utterances(samples: Samples) -> list[Inputs]:
    """Texts, sounds and pictures of different people side by side; each modality is missing in one of four."""
    present = cycle([(True, True, True), (True, True, False), (True, False, True), (False, True, True)])
    return [
        Inputs(text if said else None, audio if heard else None, frames if seen else None)
        for text, audio, frames, (said, heard, seen) in zip(
            samples.text, samples.audio, samples.frames, present, strict=False
        )
    ]


def _answer(recognition: Recognition) -> Answer:
    """Logits up to temperature: log-probabilities about their mean."""
    logarithms = np.log(np.maximum(list(recognition.scores.values()), SMALLEST))
    logits = (logarithms - logarithms.mean()).astype(np.float32)
    return Answer(logits, logits)
