"""A run folder becomes a bundle: four parts, tokenizer, face detector, licences, model card, manifest."""

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal, cast

from export import choice, engine_part, model_card, openvino_part, parity, part, together
from export.aside import aside, demand_replaceable
from export.choice import AUTO, Auto
from export.errors import ExportError
from export.part import PartName, Plan
from export.plans import plans
from export.samples import COUNT, Samples
from export.tensorrt import Builder, Options
from export.trained import Trained
from telme.bundle import (
    LICENCES,
    MANIFEST,
    SCHEMA,
    Agreement,
    Bundle,
    BundleError,
    Calibration,
    Document,
    Manifest,
    Part,
    Parts,
    Precision,
    Training,
    UnfitError,
    parsed_manifest,
    sha256_of,
)
from telme.features.faces import FaceDetector
from telme.features.video import VideoFeatures
from telme.models.sources import SourceError, locate
from telme.training.errors import TrainingError
from telme.training.face_detector import SOURCE, prepare_face_detector

log = logging.getLogger(__name__)

# What each part loses by int8 or fp16 storage is in docs/export.md.
PRECISIONS: Mapping[PartName, Precision] = {"text": "int8", "audio": "int8", "visual": "fp16", "fusion": "fp16"}
ENGINE_PRECISIONS: Mapping[PartName, Precision] = dict.fromkeys(PRECISIONS, "fp16")
OPENVINO_PRECISIONS: Mapping[PartName, Auto] = dict.fromkeys(PRECISIONS, AUTO)
# What ONNX Runtime does not compute in, and the targets that do.
ELSEWHERE = {"bf16": "tensorrt, tensorrt-rtx and openvino", "fp8": "tensorrt and tensorrt-rtx"}
DETECTOR = "face_detector.onnx"
CARD = "MODEL_CARD.md"

# How a part is to be computed: as named, or as fast as agreement with the trained one allows.
Wish = Precision | Auto
Maker = Callable[[Plan, Wish, Path], Part]


def export(
    run: Path,
    output: Path,
    corpora: Path,
    *,
    precisions: Mapping[PartName, Wish] | None = None,
    licences: Sequence[Path] = (),
    detector: str = SOURCE,
    target: Literal["onnx", "openvino"] | Options = "onnx",
    items: int = COUNT,
) -> Bundle:
    """Export a trained model; a bundle that lies in `output` already is replaced, or stays as it is on failure.

    A folder with anything else in it is refused.

    run: a folder that telme-train has written.
    corpora: with the real inputs on which the export is compared with the trained model.
    precisions: where they differ from PRECISIONS, OPENVINO_PRECISIONS or ENGINE_PRECISIONS.
    licences: texts of the licences of converted pretrained weights.
    detector: CenterFace's ONNX file; read only when the visual input is face crops.
    target: ONNX files, OpenVINO models, or TensorRT engines built in that way.
    items: of each modality, that the parts are compared on, and as many others that calibrate int8.
    Raises ExportError.
    """
    if (run / MANIFEST).is_file():
        raise ExportError(
            f"{run} is a bundle, whose weights are already rounded; give the run folder that it was exported from, "
            "such as runs/compact."
        )
    chosen, make = _chosen(target, precisions or {})
    trained = Trained.read(run)
    for name in trained.reused.keys() & (precisions or {}).keys():
        raise ExportError(
            f"The {name} part in {run / name} was taken over from a bundle and stays in "
            f"{trained.reused[name].part.precision}; leave it out of --precision."
        )
    demand_replaceable(output, "bundle", _files)
    with aside(output, "the bundle") as folder:
        face_detector = _face_detector(detector, folder) if trained.specifications.visual.kind == "face_crops" else None
        video = VideoFeatures(trained.specifications.visual, FaceDetector(folder / DETECTOR) if face_detector else None)
        visual = trained.specifications.visual
        samples = Samples.read(corpora, visual, items)
        calibration = cache(partial(Samples.read, corpora, visual, items, "train"))
        planned = plans(trained, samples, video, calibration)
        for plan in planned:
            parity.demand_sound(plan.name, plan.trained_answers)
        reused = {name: encoder.copy(folder) for name, encoder in trained.reused.items()}
        made = {
            plan.name: make(plan, chosen[plan.name], folder).model_copy(
                update={"corpora": trained.checkpoints[plan.name].corpora}
            )
            for plan in planned
            if plan.name not in reused
        }
        tokenizer = trained.specifications.text.tokenizer
        shutil.copyfile(run / "text" / tokenizer, folder / tokenizer)
        manifest = _manifest(trained, Parts(**made, **reused, face_detector=face_detector))
        try:
            manifest = manifest.model_copy(update={"end_to_end": _end_to_end(trained, manifest, folder, samples)})
            (folder / CARD).write_text(model_card.write(manifest), encoding="utf-8")
            documents = [CARD, *_copied(licences, folder)]
            manifest = manifest.model_copy(
                update={"documents": tuple(Document(file=file, sha256=sha256_of(folder / file)) for file in documents)}
            )
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            Bundle.open(folder)
        except BundleError as error:
            raise ExportError(f"The export of {run} does not fit together: {error}") from error
    return Bundle.open(output)


def _chosen(
    target: Literal["onnx", "openvino"] | Options, wishes: Mapping[PartName, Wish]
) -> tuple[dict[PartName, Wish], Maker]:
    """How each part is to be computed, and what makes it so. What is refused is refused before anything is read."""
    chosen: dict[PartName, Wish]
    match target:
        case "onnx":
            chosen = {**PRECISIONS, **wishes}
            for wish, targets in ELSEWHERE.items():
                if wish in chosen.values():
                    raise ExportError(f"{wish} is for --target {targets}; for ONNX Runtime choose fp16 or int8.")
            return chosen, _choosing(part.export, openvino=False)
        case "openvino":
            chosen = {**OPENVINO_PRECISIONS, **wishes}
            for name, wish in chosen.items():
                if wish != AUTO:
                    openvino_part.demand(name, wish)
            return chosen, _choosing(openvino_part.export, openvino=True)
        case Options():
            chosen = {**ENGINE_PRECISIONS, **wishes}
            for name, wish in chosen.items():
                engine_part.arithmetic(name, wish)
            builder = Builder(target)
            for name in (name for name, wish in chosen.items() if wish == "fp8"):
                engine_part.demand_fp8(name, builder.capabilities)
            make = partial(engine_part.export, builder=builder, options=target)
            return chosen, cast(Maker, make)  # no wish is left to be auto


def _choosing(make: Callable[[Plan, Precision, Path], Part], openvino: bool) -> Maker:
    def made(plan: Plan, wish: Wish, folder: Path) -> Part:
        if wish == AUTO:
            return choice.fastest(plan, choice.ways(plan.name, openvino), folder)
        return make(plan, wish, folder)

    return made


def _face_detector(source: str, folder: Path) -> Part:
    path = folder / DETECTOR
    try:
        prepare_face_detector(Path(locate(source)), path)
    except (SourceError, TrainingError) as error:
        raise ExportError(str(error)) from error
    return Part(file=DETECTOR, sha256=sha256_of(path), bytes=path.stat().st_size, precision="fp16")


def _end_to_end(trained: Trained, manifest: Manifest, folder: Path, samples: Samples) -> Agreement | None:
    """How well the parts agree together with the trained ones; None where they cannot run here.

    Raises ExportError where they stray.
    """
    try:
        found = together.agreement(trained, Bundle(folder, manifest, sha256=""), samples)
    except UnfitError:
        log.warning("end to end: not compared, as the parts do not run on this machine")
        return None
    log.info(
        "end to end: logits within %.2g, cosine at least %.5f, same emotion on %.1f %% of %d items",
        found.max_abs_error,
        found.min_cosine,
        100 * found.argmax_agreement,
        found.items,
    )
    together.demand(manifest, found)
    return found


def _copied(licences: Sequence[Path], folder: Path) -> list[str]:
    names = [f"{LICENCES}/{licence.name}" for licence in licences]
    if names:
        (folder / LICENCES).mkdir()
    for licence, name in zip(licences, names, strict=True):
        shutil.copyfile(licence, folder / name)
    return names


def _manifest(trained: Trained, parts: Parts) -> Manifest:
    about = trained.checkpoints
    specifications = trained.specifications
    return Manifest(
        schema_version=SCHEMA,
        name=about["text"].config,
        labels=trained.labels,
        parts=parts,
        text=specifications.text,
        audio=specifications.audio,
        visual=specifications.visual,
        fusion=specifications.fusion,
        calibration=Calibration(
            text=about["text"].temperature,
            audio=about["audio"].temperature,
            visual=about["visual"].temperature,
            fused=about["fusion"].temperature,
            audio_visual=about["fusion"].students_temperature,
        ),
        training=Training(
            config=about["text"].config,
            seed=about["text"].seed,
            commit=", ".join(_distinct(one for checkpoint in about.values() for one in checkpoint.commit.split(", "))),
            corpora=_distinct(corpus for checkpoint in about.values() for corpus in checkpoint.corpora),
            licence="; ".join(
                _distinct(one for checkpoint in about.values() for one in checkpoint.licence.split("; "))
            ),
            scores=tuple(score for checkpoint in about.values() for score in checkpoint.scores),
        ),
    )


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _files(folder: Path) -> set[str]:
    """The files of the bundle there. Raises BundleError where its manifest is none of ours."""
    manifest, _ = parsed_manifest(folder)
    return {MANIFEST, *(document.file for _, document in manifest.files())}
