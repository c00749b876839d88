"""CSV tables of utterances: bad rows and repeated ones are counted and left out."""

import csv
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import TypeVar

from telme.corpora.records import CorpusError

T = TypeVar("T")


def rows(
    table: Path,
    columns: set[str],
    source: str,
    parse: Callable[[dict[str, str]], T],
    key: Callable[[T], Hashable],
    dropped: Counter[str],
) -> Iterator[T]:
    """What `parse` makes of every row, in order; of rows with the same key the first.

    columns: those that a row must have. source: which file has them, for the reader of an error.
    parse: raises ValueError for a row that is not to be used. dropped: counts what is left out, by reason.
    Raises CorpusError when a column is missing.
    """
    seen: set[Hashable] = set()
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for fields in _fields(csv.DictReader(file), table, columns, source):
            try:
                if fields is None or any(fields[column] is None for column in columns):
                    raise ValueError("too short, or too long a field")
                row = parse(fields)
            except ValueError:
                dropped[f"unreadable row in {table.name}"] += 1
                continue
            if key(row) in seen:
                dropped[f"utterance that is there twice in {table.name}"] += 1
                continue
            seen.add(key(row))
            yield row


def _fields(
    reader: "csv.DictReader[str]", table: Path, columns: set[str], source: str
) -> Iterator[dict[str, str] | None]:
    """Rows by column, a missing value being None; None for what is no row of CSV."""
    try:
        missing = columns - set(reader.fieldnames or ())
    except csv.Error as error:
        raise CorpusError(f"{table} is no CSV table ({error}); use {source}.") from error
    if missing:
        raise CorpusError(f"{table} has no column {', '.join(sorted(missing))}; use {source}.")
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield None
