"""An exported bundle's parts, asked for their answers as the trained ones are, so that the scores show what rounding
costs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from telme.bundle import MODALITIES, Bundle, Modality, Part, Spec
from telme.runtime import backends
from telme.runtime.encoders import batch_max
from telme.training.answers import FusionPart
from telme.training.company import Batch
from telme.training.encodings import AudioPart, TextPart, VisualPart
from telme.training.encodings import Part as Asked
from telme.training.errors import TrainingError
from telme.training.networks import ExportedNetwork


@dataclass(frozen=True)
class About:
    """What the manifest says of one part."""

    part: str
    labels: tuple[str, ...]
    temperature: float
    corpora: tuple[str, ...]
    preprocessing: Spec


def parts(bundle: Bundle) -> tuple[dict[Modality, Asked], FusionPart]:
    """Teacher and students, and the fusion.

    Raises BundleError when a part cannot be run here, TrainingError when the manifest does not say what it learnt from.
    """
    manifest = bundle.manifest
    networks: dict[Modality, ExportedNetwork] = {}
    about: dict[Modality, About] = {}
    for modality in MODALITIES:
        part: Part = getattr(manifest.parts, modality)
        if not part.corpora:
            raise TrainingError(
                f"The manifest of {bundle.folder} does not say which corpora its {modality} part learnt from, so "
                "nothing tells what to test it on; export it again with telme-export."
            )
        networks[modality] = ExportedNetwork(bundle.path(part), part)
        temperature: float = getattr(manifest.calibration, modality)
        spec: Spec = getattr(manifest, modality)
        about[modality] = About(modality, manifest.labels, temperature, part.corpora, spec)
    tokenizer = Tokenizer.from_file(str(bundle.folder / manifest.text.tokenizer))
    asked: dict[Modality, Asked] = {
        "text": TextPart(about["text"], manifest.text, tokenizer, networks["text"]),
        "audio": AudioPart(about["audio"], manifest.audio, networks["audio"]),
        "visual": VisualPart(about["visual"], manifest.visual, networks["visual"]),
    }
    return asked, _fusion(bundle, {modality: network.vector for modality, network in networks.items()})


def _fusion(bundle: Bundle, sizes: dict[Modality, int]) -> FusionPart:
    manifest = bundle.manifest
    part, calibration = manifest.parts.fusion, manifest.calibration
    model, at_once = backends.load(bundle.path(part), part, torch.get_num_threads()), batch_max(part)

    def logits(batch: Batch) -> npt.NDArray[np.float32]:
        batch = batch.vectors(**sizes)
        inputs = {
            **{f"{modality}_vector": getattr(batch, modality).numpy() for modality in MODALITIES},
            "audio_present": batch.audio_present.numpy(),
            "visual_present": batch.visual_present.numpy(),
            "beta": np.full(len(batch.truth), manifest.fusion.beta, np.float32),
        }
        chunks = [slice(start, start + at_once) for start in range(0, len(batch.truth), at_once)]
        return np.concatenate(
            [model.run({name: array[rows] for name, array in inputs.items()})["logits"] for rows in chunks]
        )

    return FusionPart(manifest.labels, calibration.fused, calibration.audio_visual, "", logits)
