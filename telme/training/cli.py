"""telme-train: train the parts of a model, as a configuration says."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile

from rich.logging import RichHandler

from telme.corpora.records import CorpusError
from telme.models.sources import SourceError
from telme.training.errors import TrainingError

PARTS = ("teacher", "audio", "visual", "fusion")
STAGES: Mapping[str, tuple[str, ...]] = {
    "all": PARTS,
    "teacher": ("teacher",),
    "students": ("audio", "visual"),
    "audio": ("audio",),
    "visual": ("visual",),
    "fusion": ("fusion",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence about what to mend."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    try:
        _train(options)
    except ModuleNotFoundError as missing:
        sys.stderr.write(f'telme-train needs {missing.name}: run `pip install "telme-live[train]"`.\n')
        return 2
    except (TrainingError, CorpusError, SourceError) as error:
        sys.stderr.write(f"telme-train: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("telme-train: interrupted; run the same command again to continue after the last epoch.\n")
        return 130
    return 0


def _train(options: argparse.Namespace) -> None:
    # What these import takes seconds, and is missing where the extra `train` is not installed.
    from telme.training import config, decoded_clips
    from telme.training.processes import together

    settings = config.load(options.config)
    changes = {name: value for name in ("corpora", "output") if (value := getattr(options, name)) is not None}
    settings = settings.model_copy(update=changes)
    parts = STAGES[options.stage]
    for part in parts:
        if getattr(settings, part) is None:
            raise TrainingError(f"{options.config} has no section `{part}`; add it or choose another --stage.")
    _make(settings.folder)
    processes = together()
    if processes.main:
        decoded_clips.note(settings.folder, settings.decoded)
    else:
        logging.getLogger().setLevel(logging.ERROR)
    for part in parts:
        import_module(f"telme.training.{part}").train(settings)
        processes.wait()  # the next part reads what the main process writes


def _make(run: Path) -> None:
    """Raises TrainingError now where the end of the first epoch could not be written."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=run):
            pass
    except OSError as error:
        raise TrainingError(
            f"Cannot write to the run folder {run} ({error.strerror}); give another --output."
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="telme-train", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, such as configs/compact.yaml")
    parser.add_argument(
        "--stage",
        choices=STAGES,
        default="all",
        help="what to train: the teacher, then the students (audio, then visual, or one of them), then the fusion",
    )
    parser.add_argument("--corpora", type=Path, metavar="DIR", help="folder with the corpora, instead of CONFIG's")
    parser.add_argument("--output", type=Path, metavar="DIR", help="run folder, instead of CONFIG's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
