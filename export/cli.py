"""telme-export: make a bundle, which a machine without PyTorch can run, of a trained model."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

from rich.logging import RichHandler

from export import authors, bundle, reuse, speaker_encoder, triton
from export.bundle import Wish
from export.choice import AUTO
from export.errors import ExportError
from export.part import PartName
from export.releases import RELEASES
from export.samples import COUNT
from export.tensorrt import Options
from telme.bundle import COMPACT, MODALITIES, BundleError, Flavour, Hardware, Precision
from telme.hub import on_hub, open_bundle
from telme.training.face_detector import SOURCE

log = logging.getLogger(__name__)

IMPORT = "import-authors"
SPEAKER = "speaker-encoder"
REUSE = "reuse"
TRITON = "triton"
_ENGINES = get_args(Flavour)
WISHES = (*get_args(Precision), AUTO)
_TARGETS_OF_FLAG = {
    "compute_capability": ("tensorrt-rtx",),
    "workspace_mb": _ENGINES,
    "timing_cache": ("tensorrt",),
    "version_compatible": ("tensorrt",),
    "hardware": ("tensorrt",),
    "strip_weights": _ENGINES,
}
# What only the export of a run reads, with its usual value.
_OF_A_RUN: Mapping[str, object] = {
    "corpora": Path("corpora"),
    "precision": "",
    "samples": COUNT,
    "licences": None,
    "face_detector": SOURCE,
}
SAMPLES_MIN = 2  # a module is traced with several items, else the batch is taken for a constant
WORKSPACE_MB_MAX = 1 << 20  # a terabyte, more than any GPU has


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence about what to mend."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {
        IMPORT: (_import_parser, _import_authors),
        SPEAKER: (_speaker_parser, _export_speaker_encoder),
        REUSE: (_reuse_parser, _reuse),
    }
    command = arguments[0] if arguments and arguments[0] in commands else None
    parser, run = commands[command] if command else (_parser, _export)
    options = parser().parse_args(arguments[1:] if command else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    try:
        run(options)
    except (ExportError, BundleError) as error:
        sys.stderr.write(f"telme-export: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("telme-export: interrupted; nothing was written.\n")
        return 130
    return 0


def _export(options: argparse.Namespace) -> None:
    if options.target == TRITON:
        _write_repository(options)
        return
    if on_hub(options.source):
        raise ExportError(f"{options.source} is a bundle, whose weights are already rounded; give a run folder.")
    made = bundle.export(
        Path(options.source),
        options.output,
        options.corpora,
        precisions=precisions(options.precision),
        licences=licences(options.licences),
        detector=options.face_detector,
        target=target(options),
        items=options.samples,
    )
    size = sum(path.stat().st_size for path in made.folder.rglob("*") if path.is_file())
    log.info("bundle %s written to %s: %.1f MB", made.manifest.name, made.folder, size / 1e6)


def _write_repository(options: argparse.Namespace) -> None:
    _refuse_flags_of_other_targets(options)
    for flag, usual in _OF_A_RUN.items():
        if getattr(options, flag) != usual:
            raise ExportError(
                f"--{flag.replace('_', '-')} is for the export of a run, not for --target {TRITON}; leave it out."
            )
    found = open_bundle(options.source)
    triton.export(found, options.output)
    log.info("model repository of %s written to %s; docs/triton.md says how it is served", found.folder, options.output)


def _import_authors(options: argparse.Namespace) -> None:
    authors.import_release(options.release, RELEASES[options.dataset], options.output, options.tokenizer)
    log.info("run written to %s", options.output)


def _export_speaker_encoder(options: argparse.Namespace) -> None:
    manifest = speaker_encoder.export(options.source, options.output)
    log.info("speaker encoder written to %s: %.1f MB", options.output, manifest.encoder.bytes / 1e6)


def _reuse(options: argparse.Namespace) -> None:
    names = options.parts.split(",")
    if strange := [name for name in names if name not in MODALITIES]:
        raise ExportError(f"--parts cannot be {strange[0]!r}; name some of {', '.join(MODALITIES)}.")
    reuse.take_over(open_bundle(options.bundle), [name for name in MODALITIES if name in names], options.output)


def precisions(text: str) -> dict[PartName, Wish]:
    """Read `text=int8,audio=auto`. Raises ExportError for another form, part or precision."""
    chosen: dict[PartName, Wish] = {}
    for item in filter(None, text.split(",")):
        name, _, precision = item.partition("=")
        if name not in get_args(PartName) or precision not in WISHES:
            raise ExportError(
                f"--precision cannot be {item!r}; write PART=PRECISION with a part of {', '.join(get_args(PartName))} "
                f"and a precision of {', '.join(WISHES)}."
            )
        chosen[cast(PartName, name)] = cast(Wish, precision)
    return chosen


def target(options: argparse.Namespace) -> Literal["onnx", "openvino"] | Options:
    """The target, with how engines are to be built. Raises ExportError for what the target does not have."""
    _refuse_flags_of_other_targets(options)
    if options.samples < SAMPLES_MIN:
        raise ExportError(f"--samples cannot be {options.samples}; give at least {SAMPLES_MIN}, or leave it out.")
    if options.target in ("onnx", "openvino"):
        return cast(Literal["onnx", "openvino"], options.target)
    if options.workspace_mb is not None and not 1 <= options.workspace_mb <= WORKSPACE_MB_MAX:
        raise ExportError(
            f"--workspace-mb cannot be {options.workspace_mb} MB; give 1 to {WORKSPACE_MB_MAX}, or leave it out."
        )
    return Options(
        options.target,
        compute_capabilities=tuple(filter(None, options.compute_capability.split(","))),
        workspace_mb=options.workspace_mb,
        timing_cache=options.timing_cache,
        version_compatible=options.version_compatible,
        hardware=options.hardware or "none",
        strip_weights=options.strip_weights,
    )


def _refuse_flags_of_other_targets(options: argparse.Namespace) -> None:
    given = [flag for flag, target in _TARGETS_OF_FLAG.items() if getattr(options, flag) not in (None, False, "")]
    for flag in given:
        if options.target not in _TARGETS_OF_FLAG[flag]:
            raise ExportError(
                f"--{flag.replace('_', '-')} is for --target {' and '.join(_TARGETS_OF_FLAG[flag])}, not for "
                f"{options.target}; leave it out."
            )


def licences(folder: Path | None) -> list[Path]:
    """The licence texts in a folder. Raises ExportError when there is none."""
    if folder is None:
        return []
    found = sorted(folder.glob("*.txt"))
    if not found:
        raise ExportError(f"--licences {folder} holds no .txt file; give a folder with licence texts.")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="telme-export",
        description=__doc__,
        epilog=f"`telme-export {IMPORT} --help` is about the TelME authors' weights, `telme-export {SPEAKER} --help` "
        f"about telling people apart by voice, `telme-export {REUSE} --help` about parts of a bundle beside newly "
        "trained ones, `telme-export push --help` about model hubs.",
    )
    parser.add_argument(
        "source",
        metavar="RUN_FOLDER",
        help=f"what telme-train has written: runs/<name>; for --target {TRITON} a bundle, or hf://org/name",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the bundle goes")
    parser.add_argument(
        "--target",
        choices=["onnx", "openvino", *_ENGINES, TRITON],
        default="onnx",
        help="what the parts become: ONNX files or OpenVINO models for the CPU, engines for a GPU, or a bundle's parts "
        "a model repository of Triton Inference Server (default: %(default)s)",
    )
    parser.add_argument(
        "--corpora",
        type=Path,
        default=_OF_A_RUN["corpora"],
        metavar="DIR",
        help="folder with meld/, ravdess/ and fer2013/: the export is compared on them (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        default="",
        metavar="PART=PRECISION,…",
        help=f"per part {', '.join(WISHES)}, which is the fastest that agrees with the trained part "
        f"(default: {', '.join(f'{name}={precision}' for name, precision in bundle.PRECISIONS.items())}; "
        "openvino: auto; engines: fp16)",
    )
    parser.add_argument(
        "--samples", type=int, default=COUNT, metavar="N", help="real inputs to compare on (default: %(default)s)"
    )
    parser.add_argument(
        "--licences", type=Path, metavar="DIR", help="folder with licence texts (.txt) of converted pretrained weights"
    )
    parser.add_argument(
        "--face-detector", default=SOURCE, metavar="FILE", help="CenterFace's ONNX file (default: %(default)s)"
    )
    _add_engine_flags(parser.add_argument_group("engines (docs/tensorrt.md)"))
    return parser


def _add_engine_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--compute-capability",
        default="",
        metavar="8.9,…",
        help="tensorrt-rtx: GPUs to build for; all that it knows, unless given",
    )
    group.add_argument("--workspace-mb", type=int, metavar="MB", help="most GPU memory that a layer may work in")
    group.add_argument("--timing-cache", type=Path, metavar="FILE", help="tensorrt: keeps how fast kernels ran")
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="tensorrt: newer versions of the same major one run it too",
    )
    group.add_argument("--hardware", choices=get_args(Hardware), help="tensorrt: other GPUs that may run it (none)")
    group.add_argument(
        "--strip-weights", action="store_true", help="keep the weights beside the engines; they are put in at load"
    )


def _import_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"telme-export {IMPORT}",
        description="Make a run folder, for offline evaluation, of the weights that TelME's authors have released.",
    )
    parser.add_argument("release", type=Path, metavar="DIR", help="their save_model folder of one data set, unpacked")
    parser.add_argument("--dataset", choices=[*RELEASES], required=True, help="what the weights were trained on")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN", help="where the run folder goes")
    parser.add_argument(
        "--tokenizer",
        default=authors.TOKENIZER,
        metavar="SOURCE",
        help="RoBERTa-large's tokenizer, which the release does not hold: its folder, or its name on the model hub "
        "(default: %(default)s)",
    )
    return parser


def _reuse_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"telme-export {REUSE}",
        description="Put parts of a bundle into a run folder as they are, to train the others beside them.",
    )
    parser.add_argument(
        "bundle", nargs="?", default=COMPACT, help="folder, or hf://org/name on a hub (default: the one that ships)"
    )
    parser.add_argument("--parts", required=True, metavar="PART,…", help=f"which: {', '.join(MODALITIES)}")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN", help="the run folder; it may exist")
    return parser


def _speaker_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"telme-export {SPEAKER}",
        description="Convert Resemblyzer's speaker encoder, by which telme-stream tells people apart.",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where model and manifest go")
    parser.add_argument(
        "--source", default=speaker_encoder.SOURCE, metavar="FILE", help="its pretrained.pt (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
