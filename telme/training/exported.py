"""An exported bundle's parts, asked for their answers as the trained ones are, so that the scores show what rounding
costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from telme.bundle import MODALITIES, Bundle, Modality, Part, Spec
from telme.runtime import backends
from telme.runtime.encoders import batch_max
from telme.runtime.model import Model
from telme.training.answers import FusionPart
from telme.training.company import Batch
from telme.training.encodings import AudioPart, TextPart, VisualPart
from telme.training.encodings import Part as Asked
from telme.training.errors import TrainingError

_INPUTS: dict[Modality, tuple[str, ...]] = {
    "text": ("input_ids", "attention_mask"),
    "audio": ("features", "mask"),
    "visual": ("frames", "mask"),
}


@dataclass(frozen=True)
class About:
    """What the manifest says of one part."""

    part: str
    labels: tuple[str, ...]
    temperature: float
    corpora: tuple[str, ...]
    preprocessing: Spec


class ExportedNetwork:
    """An encoder of the bundle. It gives vector and logits together: an utterance's row holds both."""

    def __init__(self, bundle: Bundle, part: Part, inputs: Sequence[str]) -> None:
        """Raises BundleError when the part cannot be run here."""
        self._model = _loaded(bundle, part)
        self._inputs = inputs
        self.at_once = batch_max(part)
        widths = {tensor.name: int(tensor.shape[1]) for tensor in part.outputs}
        self.vector = widths["vector"]
        self.size = self.vector + widths["logits"]

    def __call__(self, inputs: Sequence[npt.NDArray[Any]], bf16: bool) -> Tensor:
        outputs = self._model.run(dict(zip(self._inputs, inputs, strict=True)))
        return torch.from_numpy(np.concatenate([outputs["vector"], outputs["logits"]], axis=1))

    def logits(self, vectors: Tensor) -> Tensor:
        return vectors[:, self.vector :]


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
        networks[modality] = ExportedNetwork(bundle, part, _INPUTS[modality])
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
    model, at_once = _loaded(bundle, part), batch_max(part)

    def logits(batch: Batch) -> npt.NDArray[np.float32]:
        inputs = {
            **{f"{modality}_vector": getattr(batch, modality)[:, :size].numpy() for modality, size in sizes.items()},
            "audio_present": batch.audio_present.numpy(),
            "visual_present": batch.visual_present.numpy(),
            "beta": np.full(len(batch.truth), manifest.fusion.beta, np.float32),
        }
        chunks = [slice(start, start + at_once) for start in range(0, len(batch.truth), at_once)]
        return np.concatenate(
            [model.run({name: array[rows] for name, array in inputs.items()})["logits"] for rows in chunks]
        )

    return FusionPart(manifest.labels, calibration.fused, calibration.audio_visual, "", logits)


def _loaded(bundle: Bundle, part: Part) -> Model:
    return backends.load(bundle.path(part), part, torch.get_num_threads())
