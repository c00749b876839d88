"""The TelME authors' released weights -> a run folder like one that telme-train writes.

docs/authors.md says what is taken over, and which faults of the authors' code come with it.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn

from export.errors import ExportError
from export.part import PartName
from export.releases import COMMIT, MAX_TOKENS, SPEAKERS, Release
from telme.bundle import AudioSpec, FusionSpec, TextSpec, VisualSpec
from telme.models.audio import AudioStudent
from telme.models.fusion import ASF
from telme.models.teacher import Teacher
from telme.models.visual import VisualStudent
from telme.training import checkpoint
from telme.training.checkpoint import Checkpoint
from telme.training.tokenizer import prepare_tokenizer

log = logging.getLogger(__name__)

TOKENIZER = "roberta-large"  # whose tokenizer their teacher reads with; the release does not hold it

AnyPart = Teacher | AudioStudent | VisualStudent | ASF


@dataclass(frozen=True)
class Layout:
    """Where the authors' file keeps a part's tensors.

    file: within the release.
    prefixes: of our tensors' names -> of theirs.
    unused: prefixes of tensors in their file that play no role in their forward pass, and need not be there.
    identity: our linear layer that they do not have: their students' vector is the encoder's state itself.
    """

    file: str
    prefixes: Mapping[str, str]
    unused: tuple[str, ...] = ()
    identity: str | None = None


LAYOUTS: Mapping[PartName, Layout] = {
    "text": Layout(
        "teacher.bin",
        {"backbone.": "text_model.", "vector.": "W.", "classifier.": "classifier."},
        # positions are counted anew, and the first token's pooled state is not asked for
        unused=("text_model.embeddings.position_ids", "text_model.pooler."),
    ),
    "audio": Layout(
        "student_audio/total_student.bin", {"backbone.model.": "model.", "classifier.": "W."}, identity="vector"
    ),
    "visual": Layout(
        "student_video/total_student.bin", {"encoder.network.": "model.", "classifier.": "W."}, identity="vector"
    ),
    "fusion": Layout(
        "total_fusion.bin",
        {
            "attention.": "multihead_attn.",
            "joined_norm.": "AV_LayerNorm.",
            "W_hav.": "W_hav.",
            "W_av.": "W_av.",
            "norm.": "LayerNorm.",
            "classifier.": "W.",
        },
    ),
}


def import_release(folder: Path, release: Release, output: Path, tokenizer: str = TOKENIZER) -> None:
    """Write the run folder `output`; everything is read and checked first.

    folder: the authors' `save_model` of one data set.
    tokenizer: RoBERTa-large's, by name on the model hub or as a folder.
    Raises ExportError where a file is missing, damaged or unsafe, a tensor does not fit, or `output` is taken.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ExportError(f"{output} exists; choose another --output, or remove it.")
    for layout in LAYOUTS.values():
        if not (folder / layout.file).is_file():
            raise ExportError(
                f"There is no {folder / layout.file}; give the authors' save_model folder of one data set, unpacked."
            )
    words, text_spec = _tokenizer(tokenizer, release)
    models: dict[PartName, AnyPart] = {
        "text": Teacher(release.text),
        "audio": AudioStudent(release.audio),
        "visual": VisualStudent(release.visual),
        "fusion": ASF(release.fusion),
    }
    for part, model in models.items():
        fill(model, read_tensors(folder / LAYOUTS[part].file), LAYOUTS[part])
    specifications: dict[PartName, TextSpec | AudioSpec | VisualSpec | FusionSpec] = {
        "text": text_spec,
        "audio": release.audio_spec,
        "visual": release.visual_spec,
        "fusion": release.fusion_spec,
    }
    abouts = {part: _about(part, release, model, specifications[part]) for part, model in models.items()}
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as aside:  # so that no half run stays
            run = Path(aside) / "run"
            for part, model in models.items():
                checkpoint.save(run / part, abouts[part], model, words if part == "text" else None)
                log.info("%s: %.1f million weights from %s", part, _size(model) / 1e6, LAYOUTS[part].file)
            run.rename(output)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"Cannot write {output} ({error}); make room or choose another --output.") from error


def _about(
    part: PartName, release: Release, model: AnyPart, specification: TextSpec | AudioSpec | VisualSpec | FusionSpec
) -> Checkpoint:
    return Checkpoint(
        part=part,
        labels=release.labels,
        architecture=asdict(model.dimensions),
        preprocessing=specification,
        corpora=(release.corpus,),
        licence=f"whatever the TelME authors and {release.corpus} allow",
        config=release.name,
        seed=42,
        commit=f"yuntaeyang/TelME {COMMIT}",
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict that `torch.save` has written, read without running what a pickle may hold.

    Raises ExportError where it is damaged, or anything but named tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle breaks in many ways, and so does a zip file
        reason = " ".join(str(error).split())[:120]
        raise ExportError(
            f"{path} is damaged, or holds more than tensors ({reason}); get the release again."
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ExportError(f"{path} holds something else than named tensors; get the authors' release again.")
    return state


def fill(model: nn.Module, theirs: Mapping[str, Tensor], layout: Layout) -> None:
    """Give the model the authors' tensors, in float32.

    Raises ExportError where one is missing or left over, or has another shape than the model's.
    """
    state = model.state_dict()
    found = {}
    if layout.identity:
        weight = state[f"{layout.identity}.weight"]
        found = {
            f"{layout.identity}.weight": torch.eye(*weight.shape),
            f"{layout.identity}.bias": torch.zeros(weight.shape[0]),
        }
    places = {_their_name(name, layout): name for name in state if name not in found}
    for name, place in places.items():
        if name not in theirs:
            raise ExportError(f"{layout.file} has no tensor {name}; it is not the file that the authors' code writes.")
        shape, wanted = tuple(theirs[name].shape), tuple(state[place].shape)
        if shape != wanted:
            raise ExportError(
                f"{layout.file}: tensor {name} has shape {shape} instead of {wanted}; choose the --dataset it is for."
            )
        if not theirs[name].is_floating_point() or not theirs[name].isfinite().all():
            raise ExportError(f"{layout.file}: tensor {name} holds something else than finite floats; get it again.")
        found[place] = theirs[name].float()
    for name in theirs:
        if name not in places and not name.startswith(layout.unused):
            raise ExportError(f"{layout.file} has a tensor {name} too many; it is not what the authors' code writes.")
    model.load_state_dict(found)


def _their_name(name: str, layout: Layout) -> str:
    ours = next(prefix for prefix in layout.prefixes if name.startswith(prefix))
    return layout.prefixes[ours] + name.removeprefix(ours)


def _tokenizer(source: str, release: Release) -> tuple[Tokenizer, TextSpec]:
    try:
        tokenizer, spec = prepare_tokenizer(source, SPEAKERS, MAX_TOKENS)
    except (OSError, ValueError) as error:
        raise ExportError(
            f"Cannot load the tokenizer {source} from a folder or the model hub; give RoBERTa-large's with --tokenizer."
        ) from error
    size, wanted = tokenizer.get_vocab_size(), release.text.backbone["vocab_size"]
    if size != wanted:
        raise ExportError(
            f"The tokenizer {source} has {size} tokens with the {SPEAKERS} speakers', the teacher reads {wanted}; "
            "give RoBERTa-large's with --tokenizer."
        )
    return tokenizer, spec.model_copy(update={"prompt": "string"})


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
