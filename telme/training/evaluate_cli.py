"""telme-evaluate: measure how good a trained model is, and whether another is better."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from telme.bundle import COMPACT, BundleError
from telme.corpora.records import CorpusError
from telme.hub import open_bundle
from telme.predictions import PredictionsError
from telme.report import comparison_table, tables
from telme.training.errors import TrainingError

log = logging.getLogger(__name__)

_PLAIN_WIDTH = 180  # where there is no terminal to fit into, tables are not folded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence about what to mend."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True), show_path=False)]
    )
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except ModuleNotFoundError as missing:
        sys.stderr.write(f'telme-evaluate needs {missing.name}: run `pip install "telme-live[train]"`.\n')
        return 2
    except (TrainingError, CorpusError, PredictionsError, BundleError) as error:
        sys.stderr.write(f"telme-evaluate: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("telme-evaluate: interrupted; run the same command again.\n")
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    from telme.training.evaluate import FOLDER, PARITY_FOLDER, evaluate  # only here: PyTorch takes seconds to load

    output = options.output or options.run / (PARITY_FOLDER if options.parity else FOLDER)
    report = evaluate(options.run, options.corpora, output, options.parity)
    _console().print(tables(report.results))
    log.info("figures, predictions and plots written to %s", output)


def _bundle(options: argparse.Namespace) -> None:
    from telme.training.evaluate import evaluate_bundle

    bundle = open_bundle(options.bundle)
    output = options.output or Path("evaluation") / bundle.manifest.name
    report = evaluate_bundle(bundle, options.corpora, output)
    _console().print(tables(report.results))
    log.info("figures, predictions and plots written to %s", output)


def _compare(options: argparse.Namespace) -> None:
    from telme.training.evaluate import compare

    comparisons = compare(options.first, options.second)
    _console().print(comparison_table(comparisons, str(options.first), str(options.second)))
    if options.json is not None:
        try:
            options.json.write_text("[" + ",\n".join(one.model_dump_json() for one in comparisons) + "]\n", "utf-8")
        except OSError as error:
            raise PredictionsError(f"Cannot write {options.json} ({error.strerror}); give another --json.") from error


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_PLAIN_WIDTH)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="telme-evaluate", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="measure the parts of a run on the corpora that they learnt from")
    run.add_argument("run", type=Path, metavar="RUN", help="folder that telme-train has written, such as runs/compact")
    run.add_argument("--corpora", type=Path, default=Path("corpora"), metavar="DIR", help="folder that holds meld/ …")
    run.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: RUN/evaluation, or RUN/evaluation-parity)"
    )
    run.add_argument(
        "--parity",
        action="store_true",
        help="repeat the TelME authors' evaluation of their imported weights, mistakes included (docs/authors.md); "
        "without it such weights get the inputs of our own models",
    )
    run.set_defaults(command=_run)
    bundle = commands.add_parser("bundle", help="measure an exported bundle, as it runs on this machine")
    bundle.add_argument(
        "bundle", nargs="?", default=COMPACT, metavar="BUNDLE", help="folder, or hf://org/name (default: what ships)"
    )
    bundle.add_argument(
        "--corpora", type=Path, default=Path("corpora"), metavar="DIR", help="folder that holds meld/ …"
    )
    bundle.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: evaluation/NAME)")
    bundle.set_defaults(command=_bundle)
    both = commands.add_parser("compare", help="is the second of two evaluated runs better?")
    both.add_argument("first", type=Path, metavar="A", help="run folder, folder of an evaluation, or predictions file")
    both.add_argument("second", type=Path, metavar="B", help="the same for the other run")
    both.add_argument("--json", type=Path, metavar="FILE", help="write the comparison there as well")
    both.set_defaults(command=_compare)
    return parser


if __name__ == "__main__":
    sys.exit(main())
