"""Undelivered events on disk: an SQLite file that belongs to one process at a time."""

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from streamer.mqtt.errors import OutboxError

Synchronous = Literal["normal", "full"]

VERSION = 1
_APPLICATION = 0x54654C4D  # "TeLM": marks the file as ours
_LOCK_S = 1.0
_MAGIC = b"SQLite format 3\0"
_SCHEMA = "CREATE TABLE event (seq INTEGER PRIMARY KEY, accepted_at REAL NOT NULL, payload BLOB NOT NULL) STRICT"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """seq: place in the order; accepted_at: seconds since 1970; payload: the event as JSON in UTF-8."""

    seq: int
    accepted_at: float
    payload: bytes


class DamagedError(Exception):
    """The file was an outbox and is no sound database any more."""


class Journal:
    """Every method blocks. One thread at a time may use it.

    The file is in write-ahead mode. With `full` an entry survives a power cut once `write` returns; with `normal` it
    survives the end of this process in any way, and a power cut once `settle` returns.
    Deleted entries are overwritten with zeros: what was said does not stay behind.
    """

    def __init__(self, path: Path, synchronous: Synchronous) -> None:
        """Raises OutboxError for what a user can mend, DamagedError, or sqlite3.Error and OSError from the disk."""
        _create(path)
        try:
            # The lock lasts as long as the connection and goes away with the process, however that ends.
            self._database = sqlite3.connect(path, timeout=_LOCK_S, check_same_thread=False)
            with contextlib.ExitStack() as when_refused:
                when_refused.callback(self._database.close)
                self._prepare(path, synchronous)
                when_refused.pop_all()
        except sqlite3.Error as error:
            raise _explained(error, path) from error

    def _prepare(self, path: Path, synchronous: Synchronous) -> None:
        self._pragma("locking_mode = EXCLUSIVE")
        if self._pragma("application_id") != _APPLICATION and self._pragma("schema_version") != 0:
            raise OutboxError(_foreign(path))
        if (version := self._pragma("user_version")) > VERSION:
            raise OutboxError(
                f"the outbox {path} was written by a newer telme-live (form {version}, this one knows {VERSION}): "
                "start that one, or move the file away"
            )
        if (finding := self._pragma("quick_check(1)")) != "ok":
            raise DamagedError(finding)
        self._pragma("journal_mode = WAL")
        self._pragma(f"synchronous = {synchronous}")
        self._pragma("secure_delete = ON")
        if version == 0:
            with self._database:
                # Python begins no transaction by itself before statements that change the schema.
                self._database.execute("BEGIN EXCLUSIVE")
                self._database.execute(_SCHEMA)
                self._pragma(f"application_id = {_APPLICATION}")
                self._pragma(f"user_version = {VERSION}")

    def entries(self) -> list[Entry]:
        """All of them, in order."""
        rows = self._database.execute("SELECT seq, accepted_at, payload FROM event ORDER BY seq")
        return [Entry(*row) for row in rows]

    def write(self, added: Iterable[Entry], removed: Iterable[int]) -> None:
        """All or nothing, and harmless when repeated: after an error it is not known whether it was done."""
        with self._database:
            self._database.executemany(
                "INSERT OR IGNORE INTO event VALUES (?, ?, ?)",
                [(entry.seq, entry.accepted_at, entry.payload) for entry in added],
            )
            self._database.executemany("DELETE FROM event WHERE seq = ?", [(seq,) for seq in removed])

    def settle(self) -> None:
        """Bring everything from the write-ahead log into the database, and both to the disk."""
        self._pragma("wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._database.close()

    def _pragma(self, text: str) -> Any:
        with contextlib.closing(self._database.execute(f"PRAGMA {text}")) as cursor:
            row = cursor.fetchone()
        return row[0] if row else None


def open_journal(path: Path, synchronous: Synchronous) -> Journal:
    """The journal at `path`; a damaged one is renamed to `….damaged`, told of, and replaced by an empty one.

    Raises OutboxError for what a user can mend, and sqlite3.Error or OSError when the disk fails.
    """
    try:
        return Journal(path, synchronous)
    except DamagedError as damage:
        aside = path.with_name(f"{path.name}.damaged")
        log.error("the outbox %s is damaged (%s): set aside as %s; its events are not delivered", path, damage, aside)
    for end in ("", "-wal"):
        part = path.with_name(f"{path.name}{end}")
        if part.exists():
            part.replace(aside.with_name(f"{aside.name}{end}"))
    return Journal(path, synchronous)


def _create(path: Path) -> None:
    """Only its owner may read the file: it can hold what people said."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file that is there is not opened: closing it again would give up an SQLite lock of this process.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise OutboxError(_unwritable(path, error.strerror)) from None


def _explained(error: sqlite3.Error, path: Path) -> Exception:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:  # the rest of an extended code tells details
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return OutboxError(
                f"the outbox {path} is in use by another telme-stream: give each its own --node or mqtt.outbox"
            )
        case sqlite3.SQLITE_NOTADB if not _was_database(path):
            return OutboxError(_foreign(path))
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return DamagedError(str(error))
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return OutboxError(_unwritable(path, str(error)))
    return error


def _was_database(path: Path) -> bool:
    """Whether the file begins as SQLite's do, or with zeros, as a power cut can leave it."""
    with path.open("rb") as file:
        head = file.read(len(_MAGIC))
    return head == _MAGIC or not head.strip(b"\0")


def _foreign(path: Path) -> str:
    return f"{path} is no outbox but some other file: set mqtt.outbox to a file of its own"


def _unwritable(path: Path, reason: str | None) -> str:
    return f"cannot write the outbox {path} ({reason}): set mqtt.outbox to a file that can be written, or to none"
