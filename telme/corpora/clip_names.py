"""Clips of corpora whose file names say everything: who speaks, what, and how."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_SUFFIXES = (".wav", ".flac")


def named_clips(
    folder: Path, name: re.Pattern[str], corpus: str, dropped: Counter[str]
) -> Iterator[tuple[Path, re.Match[str]]]:
    """The clips in `folder` or below it, sorted, each with what its name says.

    name: what the name without its suffix must be as a whole; clips that are called otherwise go into `dropped`.
    """
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES):
        match = name.fullmatch(path.stem)
        if match is None:
            dropped[f"its name is not one of {corpus}"] += 1
        else:
            yield path, match
