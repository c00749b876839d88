"""telme-evaluate: measure how good a trained model is, and whether another is better."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.logging import RichHandler

from telme import plots
from telme.corpora.records import CorpusError
from telme.evaluation import paired_bootstrap
from telme.predictions import SUFFIX, Predictions, PredictionsError, grouped_pair
from telme.report import Comparison, Figures, Report, Source, comparison_table, tables
from telme.training.errors import TrainingError
from telme.training.evaluate import predict, trained_parts

log = logging.getLogger(__name__)

FOLDER = "evaluation"
REPORT = "evaluation.json"
PREDICTIONS = "predictions"
PLOTS = "plots"
_PLAIN_WIDTH = 160  # where there is no terminal to fit into, tables are not folded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence about what to mend."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True), show_path=False)]
    )
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except (TrainingError, CorpusError, PredictionsError) as error:
        sys.stderr.write(f"telme-evaluate: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("telme-evaluate: interrupted; run the same command again.\n")
        return 130
    return 0


def evaluate(run: Path, corpora: Path, output: Path) -> Report:
    """Measure every part of a run and every combination of modalities, and write figures, answers and plots.

    Raises TrainingError or CorpusError where the run, the corpora or the output folder cannot be used.
    """
    parts = trained_parts(run)
    sources = {name: Source(config=one.config, seed=one.seed, commit=one.commit) for name, one in parts.items()}
    results = []
    try:
        _remove_earlier(output)
        for folder in (PREDICTIONS, PLOTS):
            (output / folder).mkdir(parents=True, exist_ok=True)
        for predictions in predict(run, corpora):
            name = predictions.heading.name
            predictions.write(output / PREDICTIONS / f"{name}{SUFFIX}")
            figures = Figures.of(predictions)
            plots.draw_predictions(predictions, figures, output / PLOTS / f"{name}.png")
            results.append(figures)
        if not results:
            raise TrainingError(f"No part of {run} learnt from a corpus that it can be evaluated on here.")
        plots.draw_overview(results, output / PLOTS / "overview.png")
        report = Report(parts=sources, results=tuple(results))
        (output / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"Cannot write the evaluation to {output} ({error}); give another --output.") from error
    return report


def _remove_earlier(output: Path) -> None:
    """Of an earlier evaluation the answers and plots, which may be of parts that are no longer there."""
    if (output / REPORT).is_file():
        try:
            earlier = Report.model_validate_json((output / REPORT).read_bytes())
        except ValidationError as error:
            raise TrainingError(f"{output / REPORT} is no evaluation; remove it or give another --output.") from error
        for name in (result.name for result in earlier.results):
            (output / PREDICTIONS / f"{name}{SUFFIX}").unlink(missing_ok=True)
            (output / PLOTS / f"{name}.png").unlink(missing_ok=True)


def compare(first: Path, second: Path) -> list[Comparison]:
    """Compare two evaluations' predictions of the same name, or two files with predictions.

    Raises PredictionsError where one is missing or damaged, nothing matches or the items differ.
    """
    pairs = _pairs(first, second)
    comparisons = []
    for name, (one, other) in pairs.items():
        a, b = Predictions.read(one), Predictions.read(other)
        comparisons.append(Comparison.of(name, a, b, paired_bootstrap(*grouped_pair(a, b))))
    return comparisons


def _pairs(first: Path, second: Path) -> dict[str, tuple[Path, Path]]:
    if first.is_file() and second.is_file():
        return {f"{first.stem} → {second.stem}": (first, second)}
    found = [{path.name: path for path in _folder(given).glob(f"*{SUFFIX}")} for given in (first, second)]
    common = sorted(found[0].keys() & found[1].keys())
    for name in sorted(found[0].keys() ^ found[1].keys()):
        log.warning("%s is in one of the runs only and is not compared.", name)
    if not common:
        raise PredictionsError(f"{first} and {second} have no predictions in common; run telme-evaluate run on both.")
    return {name.removesuffix(SUFFIX): (found[0][name], found[1][name]) for name in common}


def _folder(given: Path) -> Path:
    for folder in (given / FOLDER / PREDICTIONS, given / PREDICTIONS):
        if folder.is_dir():
            return folder
    raise PredictionsError(f"{given} holds no evaluation; run telme-evaluate run on it first.")


def _run(options: argparse.Namespace) -> None:
    output = options.output or options.run / FOLDER
    report = evaluate(options.run, options.corpora, output)
    _console().print(tables(report.results))
    log.info("figures, predictions and plots written to %s", output)


def _compare(options: argparse.Namespace) -> None:
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
    run.add_argument("--output", type=Path, metavar="DIR", help=f"where to write (default: RUN/{FOLDER})")
    run.set_defaults(command=_run)
    both = commands.add_parser("compare", help="is the second of two evaluated runs better?")
    both.add_argument(
        "first", type=Path, metavar="A", help="run folder, --output of an evaluation, or predictions file"
    )
    both.add_argument("second", type=Path, metavar="B", help="the same for the other run")
    both.add_argument("--json", type=Path, metavar="FILE", help="write the comparison there as well")
    both.set_defaults(command=_compare)
    return parser


if __name__ == "__main__":
    sys.exit(main())
