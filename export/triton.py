"""A bundle -> a model repository for NVIDIA's Triton Inference Server: one model per part, and one that clients ask.

That one is a Python model that calls the others (Triton's business logic scripting), not an ensemble: an ensemble is a
fixed graph, which runs every part for every request, and cannot leave out what a client does not have.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from export import triton_config
from export.aside import aside, is_empty
from export.errors import ExportError
from telme.bundle import MANIFEST, Bundle, Part, offline_complaint
from telme.runtime import tensors

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

CONFIG = "config.pbtxt"
DATA = "bundle"  # a folder of this name is none that Triton reads: those of versions are numbers
MODEL = Path(__file__).with_name("triton_model.py")
PARTS = ("text", "audio", "visual", "fusion")  # faces are found, and words cut into tokens, where the client is


def export(bundle: Bundle, output: Path) -> None:
    """Write the repository into a new or empty folder, whole or not at all.

    Raises ExportError for a bundle that Triton cannot run, and when it cannot be written; BundleError for one whose
    parts do not fit its specifications.
    """
    _demand_schema()
    tensors.demand(bundle)
    manifest = bundle.manifest
    parts: dict[str, Part] = dict(manifest.parts.named())
    for name, part in parts.items():
        _demand_runnable(bundle, name, part)
    if complaint := offline_complaint(manifest.text, manifest.audio, manifest.visual, manifest.fusion):
        raise ExportError(complaint)
    if output.exists() and not is_empty(output):
        raise ExportError(f"{output} exists; choose another --output, or remove it.")
    with aside(output, "the model repository") as repository:
        for name in PARTS:
            config = triton_config.part_config(triton_config.model_name(manifest, name), parts[name])
            _write_model(repository, config, bundle.path(parts[name]))
        asked = triton_config.recogniser_config(manifest)
        _write_model(repository, asked, MODEL)
        folder = repository / asked.name
        (folder / triton_config.LABELS).write_text("\n".join(manifest.labels) + "\n", encoding="utf-8")
        # What a client makes its inputs by, and what the weights may be used for. The bundle chooses the names of these
        # files, so they lie where Triton reads none: a bundle is data, and must not bring code or a configuration.
        for file in (MANIFEST, manifest.text.tokenizer, *(document.file for document in manifest.documents)):
            copy = folder / DATA / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.folder / file, copy)


def _write_model(repository: Path, config: "ModelConfig", file: Path) -> None:
    """A model's folder: its configuration, and its file as version 1."""
    from google.protobuf import text_format  # type: ignore[import-untyped]  # comes without types

    version = repository / config.name / "1"
    version.mkdir(parents=True)
    (version.parent / CONFIG).write_text(text_format.MessageToString(config), encoding="utf-8")
    shutil.copyfile(file, version / config.default_model_filename)


def _demand_schema() -> None:
    try:
        import tritonclient.grpc  # noqa: F401 - only to see whether it is there
    except (ImportError, RuntimeError) as missing:  # RuntimeError: it is there, without what its grpc part needs
        raise ExportError('Triton\'s schema is missing: run `pip install "telme-live[triton]"`.') from missing


def _demand_runnable(bundle: Bundle, name: str, part: Part) -> None:
    if part.backend not in ("onnxruntime", "tensorrt"):
        raise ExportError(
            f"A model repository cannot hold parts for {part.backend}, as the {name} part of {bundle.folder} is; "
            "export the run with --target tensorrt or onnx first."
        )
    if part.engine and part.engine.weights:
        raise ExportError(
            f"Triton does not put weights into engines, and the {name} part of {bundle.folder} has none; export the "
            "run without --strip-weights first."
        )
