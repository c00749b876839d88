"""Decodes a corpus's media files, many at once, and each only once: the results stay on disk."""

import hashlib
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from telme.corpora.records import Utterance
from telme.progress import tracked

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
T = TypeVar("T")

_NAME = "array"


class DecodeError(Exception):
    """A media file, or a stretch of one, that cannot be used.

    message: what is wrong with which file; empty where the reason says everything. reason: for counting.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class DecodedFiles:
    """Arrays decoded from media files, one safetensors file each.

    An entry belongs to a file's path, size and time of change, and to the recipe by which it was decoded: whatever of
    these changes, the file is decoded again. Safe for several threads and processes.
    """

    def __init__(self, folder: Path) -> None:
        """folder: made when the first array is written."""
        self._folder = folder

    def fetch(self, source: Path, recipe: str, decode: Callable[[], Array]) -> Path:
        """Where the array lies that `decode` makes of `source`; it is called only if there is none yet.

        recipe: everything but the file that the result depends on.
        Raises DecodeError where `source` is missing, and whatever `decode` raises.
        """
        try:
            about = source.stat()
        except OSError as error:
            raise DecodeError(f"{source} cannot be read ({error.strerror}).", "file missing") from error
        identity = json.dumps([str(source.resolve()), about.st_size, about.st_mtime_ns, recipe])
        path = self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
            save_file({_NAME: np.ascontiguousarray(decode())}, partial)
            partial.replace(path)
        return path


def read(path: Path) -> Array:
    """An array that `DecodedFiles.fetch` has put there."""
    array: Array = load_file(path)[_NAME]
    return array


def decode_all(
    corpus: str, what: str, utterances: Sequence[Utterance], decode: Callable[[Utterance], T]
) -> Iterator[tuple[Utterance, T]]:
    """Decode in as many threads as there are cores; utterances come in their order.

    Those for which `decode` raises DecodeError are left out, counted by reason and logged.
    corpus, what: for progress and log, such as "meld" and "sound".
    """
    dropped: Counter[str] = Counter()

    def attempt(utterance: Utterance) -> T | DecodeError:
        try:
            return decode(utterance)
        except DecodeError as error:
            return error

    executor = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
    try:
        results = zip(utterances, executor.map(attempt, utterances), strict=True)
        for utterance, result in tracked(results, len(utterances), f"decoding {what} of {corpus}", "utterances"):
            if isinstance(result, DecodeError):
                dropped[result.reason] += 1
                if str(result):
                    log.warning("%s", result)
            else:
                yield utterance, result
    finally:
        executor.shutdown(cancel_futures=True)
    for reason, count in dropped.items():
        log.warning("%s: %d utterances left out: %s", corpus, count, reason)
