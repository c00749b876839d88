"""telme-export: make a bundle, which a machine without PyTorch can run, of a trained model."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from rich.logging import RichHandler

from export import authors, bundle
from export.errors import ExportError
from export.part import PartName
from export.releases import RELEASES
from telme.bundle import Precision
from telme.training.face_detector import SOURCE

log = logging.getLogger(__name__)

IMPORT = "import-authors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence about what to mend."""
    arguments = sys.argv[1:] if arguments is None else arguments
    importing = arguments[:1] == [IMPORT]
    options = _import_parser().parse_args(arguments[1:]) if importing else _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    try:
        if importing:
            _import_authors(options)
        else:
            _export(options)
    except ExportError as error:
        sys.stderr.write(f"telme-export: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("telme-export: interrupted; nothing was written.\n")
        return 130
    return 0


def _export(options: argparse.Namespace) -> None:
    made = bundle.export(
        options.run,
        options.output,
        options.corpora,
        precisions=precisions(options.precision),
        licences=licences(options.licences),
        detector=options.face_detector,
    )
    size = sum(path.stat().st_size for path in made.folder.rglob("*") if path.is_file())
    log.info("bundle %s written to %s: %.1f MB", made.manifest.name, made.folder, size / 1e6)


def _import_authors(options: argparse.Namespace) -> None:
    authors.import_release(options.release, RELEASES[options.dataset], options.output, options.tokenizer)
    log.info("run written to %s", options.output)


def precisions(text: str) -> dict[PartName, Precision]:
    """Read `text=int8,audio=fp16`. Raises ExportError for another form, part or precision."""
    chosen: dict[PartName, Precision] = {}
    for item in filter(None, text.split(",")):
        name, _, precision = item.partition("=")
        if name not in get_args(PartName) or precision not in get_args(Precision):
            raise ExportError(
                f"--precision cannot be {item!r}; write PART=PRECISION with a part of {', '.join(get_args(PartName))} "
                f"and a precision of {', '.join(get_args(Precision))}."
            )
        chosen[cast(PartName, name)] = cast(Precision, precision)
    return chosen


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
        epilog=f"`telme-export {IMPORT} --help` is about the TelME authors' weights.",
    )
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="what telme-train has written: runs/<name>")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the bundle goes")
    parser.add_argument(
        "--corpora",
        type=Path,
        default=Path("corpora"),
        metavar="DIR",
        help="folder with meld/, ravdess/ and fer2013/: the export is compared on them (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        default="",
        metavar="PART=PRECISION,…",
        help=f"per part {', '.join(get_args(Precision))} "
        f"(default: {', '.join(f'{name}={precision}' for name, precision in bundle.PRECISIONS.items())})",
    )
    parser.add_argument(
        "--licences", type=Path, metavar="DIR", help="folder with licence texts (.txt) of converted pretrained weights"
    )
    parser.add_argument(
        "--face-detector", default=SOURCE, metavar="FILE", help="CenterFace's ONNX file (default: %(default)s)"
    )
    return parser


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


if __name__ == "__main__":
    sys.exit(main())
