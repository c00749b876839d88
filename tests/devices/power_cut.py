"""Power cuts without a switch: records what a program writes and syncs, and makes the files that a cut would leave."""

import os
import random
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_HEAD = struct.Struct("=cQQQ")
_MARK = b"m"


@dataclass(frozen=True)
class Record:
    kind: bytes
    file: int
    first: int
    second: int
    data: bytes


@dataclass
class _File:
    """durable: what is surely on the disk; pending: what the system may have written by itself, or not."""

    name: str
    durable: bytearray
    pending: list[Record] = field(default_factory=list)


class Recorder:
    """Records what a program does to the files of one folder. Needs gcc."""

    def __init__(self, folder: Path, watched: Path) -> None:
        """`folder` takes the recording; `watched` is the folder of the program's files."""
        self._library = folder / "power_cut.so"
        self._log = folder / "power_cut.log"
        self._watched = watched
        self._before = {file.name: file.read_bytes() for file in watched.iterdir()}
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", self._library, source], check=True)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self._library),
            "POWER_CUT_FILES": f"{self._watched}/",
            "POWER_CUT_LOG": str(self._log),
        }

    def records(self) -> list[Record]:
        return list(_records(self._log.read_bytes()))

    def cut(self, records: list[Record], chance: random.Random, into: Path) -> None:
        """Write to `into` what the disk may hold when the power is cut after `records`."""
        files: dict[int, _File] = {}
        for record in records:
            if record.kind == b"o" and record.file not in files:
                name = Path(record.data.decode()).name
                files[record.file] = _File(name, bytearray(self._before.get(name, b"")))
            elif record.kind == b"s":
                file = files[record.file]
                _apply(file.durable, file.pending)
                file.pending.clear()
            elif record.kind in b"wt":
                files[record.file].pending.append(record)
        into.mkdir()
        for file in files.values():
            _apply(file.durable, [record for record in file.pending if chance.random() < 0.5])
            (into / file.name).write_bytes(file.durable)


class Marks:
    """Lets the recorded program note between its writes how far it has come."""

    def __init__(self, log: Path) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @classmethod
    def of_this_program(cls) -> Self:
        return cls(Path(os.environ["POWER_CUT_LOG"]))

    def note(self, what: int, number: int) -> None:
        os.write(self._log, _HEAD.pack(_MARK, what, number, 0))


def marks(records: list[Record], what: int) -> set[int]:
    return {record.first for record in records if record.kind == _MARK and record.file == what}


def _records(log: bytes) -> Iterator[Record]:
    position = 0
    while position < len(log):
        kind, file, first, second = _HEAD.unpack_from(log, position)
        position += _HEAD.size
        length = second if kind in b"ow" else 0
        yield Record(kind, file, first, second, log[position : position + length])
        position += length


def _apply(content: bytearray, records: list[Record]) -> None:
    for record in records:
        if record.kind == b"t":
            del content[record.first :]
            content.extend(bytes(record.first - len(content)))
        else:
            content.extend(bytes(max(0, record.first + record.second - len(content))))
            content[record.first : record.first + record.second] = record.data
