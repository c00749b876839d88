"""A whole evaluation on disk: figures, answers and plots of a run or a bundle, and the comparison of two."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from telme import plots
from telme.bundle import Bundle
from telme.corpora.decoding import DecodedFiles
from telme.evaluation import paired_bootstrap
from telme.predictions import SUFFIX, Predictions, PredictionsError, grouped_pair
from telme.report import Comparison, Figures, Report, Source
from telme.training import exported
from telme.training.answers import answers, predict, trained_parts
from telme.training.errors import TrainingError
from telme.training.parity import reproduce

log = logging.getLogger(__name__)

FOLDER = "evaluation"
PARITY_FOLDER = "evaluation-parity"
REPORT = "evaluation.json"
PREDICTIONS = "predictions"
PLOTS = "plots"


def evaluate(run: Path, corpora: Path, output: Path, parity: bool = False) -> Report:
    """Measure every part of a run and every combination of modalities, and write figures, answers and plots.

    parity: repeat the TelME authors' evaluation of their weights instead, which an imported run holds.
    Raises TrainingError or CorpusError where the run, the corpora or the output folder cannot be used.
    """
    parts = trained_parts(run)
    sources: dict[str, Source] = {
        name: Source(config=one.config, seed=one.seed, commit=one.commit) for name, one in parts.items()
    }
    return _written(run, sources, reproduce(run, corpora) if parity else predict(run, corpora), output)


def evaluate_bundle(bundle: Bundle, corpora: Path, output: Path) -> Report:
    """The same of an exported bundle, as it runs on this machine.

    Raises BundleError, TrainingError or CorpusError where the bundle, the corpora or the output folder cannot be used.
    """
    parts, fusion = exported.parts(bundle)
    training = bundle.manifest.training
    source = Source(config=training.config, seed=training.seed, commit=training.commit)
    return _written(
        bundle.folder,
        dict.fromkeys((*parts, "fusion"), source),
        answers(parts, fusion, corpora, DecodedFiles(output / "decoded")),
        output,
    )


def _written(model: Path, sources: Mapping[str, Source], everything: Iterable[Predictions], output: Path) -> Report:
    results = []
    try:
        _remove_earlier(output)
        for folder in (PREDICTIONS, PLOTS):
            (output / folder).mkdir(parents=True, exist_ok=True)
        for predictions in everything:
            name = predictions.heading.name
            predictions.write(output / PREDICTIONS / f"{name}{SUFFIX}")
            figures = Figures.of(predictions)
            plots.draw_predictions(predictions, figures, output / PLOTS / f"{name}.png")
            results.append(figures)
        if not results:
            raise TrainingError(f"No part of {model} learnt from a corpus that it can be evaluated on here.")
        plots.draw_overview(results, output / PLOTS / "overview.png")
        report = Report(parts=dict(sources), results=tuple(results))
        (output / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"Cannot write the evaluation to {output} ({error}); give another --output.") from error
    return report


def _remove_earlier(output: Path) -> None:
    """Remove what an earlier evaluation left, which may be of parts that are no longer there."""
    if (output / REPORT).is_file():
        try:
            earlier = Report.model_validate_json((output / REPORT).read_bytes())
        except ValidationError as error:
            raise TrainingError(f"{output / REPORT} is no evaluation; remove it or give another --output.") from error
        for name in (result.name for result in earlier.results):
            (output / PREDICTIONS / f"{name}{SUFFIX}").unlink(missing_ok=True)
            (output / PLOTS / f"{name}.png").unlink(missing_ok=True)
        (output / REPORT).unlink()


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
