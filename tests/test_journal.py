"""The file of undelivered events: whose it is, what damages it, what a full disk and a power cut leave of it."""

import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from accepting import ACCEPTED, DELIVERED
from devices.power_cut import Recorder, marks

from streamer.events import EmotionEvent
from streamer.mqtt.errors import OutboxError
from streamer.mqtt.journal import DamagedError, Entry, Journal, open_journal
from streamer.mqtt.outbox_path import outbox_path
from streamer.settings import Mqtt

HERE = Path(__file__).parent


def entry(seq: int, size: int = 1000) -> Entry:
    return Entry(seq, time.time(), (b"%06d " % seq) * (size // 7))


def filled(path: Path, count: int = 50) -> list[Entry]:
    entries = [entry(seq) for seq in range(1, count + 1)]
    journal = open_journal(path, "full")
    journal.write(entries, [])
    journal.close()
    return entries


def found(path: Path) -> list[Entry]:
    with closing(open_journal(path, "full")) as journal:
        return journal.entries()


def test_what_was_added_and_not_removed_is_found_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "outbox"
    journal = open_journal(path, "normal")
    assert journal.entries() == []
    journal.write([entry(1), entry(2), entry(3)], [])
    journal.write([entry(5), entry(4)], [2])
    journal.settle()
    journal.close()
    assert [entry.seq for entry in found(path)] == [1, 3, 4, 5]


def test_writing_twice_is_writing_once(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "outbox", "full")
    for _ in range(2):
        journal.write([entry(1), entry(2)], [2])
    journal.close()
    assert [entry.seq for entry in found(tmp_path / "outbox")] == [1]


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "state" / "outbox", "full")
    journal.write([entry(1)], [])
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "state").iterdir()}
    journal.close()
    assert modes == {"outbox": 0o600, "outbox-wal": 0o600}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_what_was_removed_and_settled_is_nowhere_on_disk(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "outbox", "normal")
    secret = Entry(1, time.time(), b"what somebody said " * 500)
    journal.write([secret, entry(2)], [])
    journal.settle()
    journal.write([], [1])
    journal.settle()
    assert not any(b"somebody" in file.read_bytes() for file in tmp_path.iterdir())
    journal.close()


PROGRAM = """
import sys, time
from pathlib import Path
from streamer.mqtt.journal import Entry, open_journal
journal = open_journal(Path(sys.argv[1]), "normal")
journal.write([Entry(1, time.time(), b"{}")], [])
print("open", flush=True)
sys.stdin.read()
"""


def test_one_program_at_a_time_and_after_a_kill_the_next(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    command = [sys.executable, "-c", PROGRAM, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(OutboxError, match=r"outbox is in use by another telme-stream: give each its own --node"):
            open_journal(path, "full")
        other.kill()
        other.wait()
        assert [entry.seq for entry in found(path)] == [1]


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE photo (id)")
    before = path.read_bytes()
    with pytest.raises(OutboxError, match=r"photos.sqlite3 is no outbox but some other file"):
        open_journal(path, "full")
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Do not forget the milk. " * 100)
    with pytest.raises(OutboxError, match=r"notes.txt is no outbox but some other file"):
        open_journal(path, "full")
    assert path.read_text().startswith("Do not forget")


def test_a_newer_form_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "outbox")
    with closing(sqlite3.connect(tmp_path / "outbox")) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(OutboxError, match=r"written by a newer telme-live \(form 7, this one knows 1\)"):
        open_journal(tmp_path / "outbox", "full")


@pytest.mark.parametrize("where", ["/proc/outbox", "/dev/null/outbox", "/"])
def test_a_place_that_cannot_be_written(where: str) -> None:
    with pytest.raises(OutboxError, match=r"cannot write the outbox .*: set mqtt.outbox to a file that can be"):
        open_journal(Path(where), "full")


@pytest.mark.parametrize("damage", ["zeros", "middle", "truncated"])
def test_a_damaged_file_is_set_aside_and_replaced(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox"
    filled(path)
    content = bytearray(path.read_bytes())
    if damage == "zeros":
        content = bytearray(len(content))
    elif damage == "middle":
        content[4096:12288] = random.Random(1).randbytes(8192)
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    journal = open_journal(path, "full")
    assert journal.entries() == []
    journal.write([entry(1)], [])
    journal.close()
    assert (tmp_path / "outbox.damaged").read_bytes() == content
    assert "is damaged" in caplog.text
    assert [entry.seq for entry in found(path)] == [1]


def test_random_damage_is_never_more_than_damage(tmp_path: Path) -> None:
    """Any page overwritten with anything: opened, set aside or refused, never another error."""
    path = tmp_path / "outbox"
    filled(path)
    content = path.read_bytes()
    chance = random.Random(2)
    for _ in range(60):
        damaged = bytearray(content)
        start, length = chance.randrange(len(content)), chance.choice([1, 16, 512, 4096])
        damaged[start : start + length] = chance.randbytes(len(damaged[start : start + length]))
        path.write_bytes(damaged)
        try:
            journal = Journal(path, "normal")
        except (DamagedError, OutboxError):
            continue
        assert len(journal.entries()) <= 50
        journal.write([entry(1000)], [1])
        journal.close()


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from brokers import until
from emotion_events import emotion_event
from streamer.mqtt.outbox import Bounds, Outbox

async def main():
    async with Outbox(Bounds(1000, 10_000_000, 3600), Path(sys.argv[1])) as outbox:
        number = 0
        while outbox.storage == "disk":
            outbox.put(emotion_event(number))
            number += 1
            await until(lambda: outbox.unsaved == 0 or outbox.storage == "failing")
        for late in range(number, number + 10):
            outbox.put(emotion_event(late))
        for expected in range(number + 10):
            event = await outbox.first()
            assert event.event_id == f"event-{expected}"
            outbox.delivered()
        assert outbox.sent_unsaved > 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        outbox.put(emotion_event(number + 10))
        await until(lambda: outbox.storage == "disk" and outbox.unsaved == 0)

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), 1 << 30))
asyncio.run(main())
"""


def test_a_disk_that_runs_full_loses_no_event_of_a_running_stream(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "outbox"), str(200_000)]
    ended = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "cannot write the outbox" in ended.stderr
    (left,) = found(tmp_path / "outbox")
    assert b"event-" in left.payload


FULL_AT_THE_START = """
import asyncio, os, resource, sys
from pathlib import Path
from brokers import until
from emotion_events import emotion_event
from streamer.mqtt.outbox import Bounds, Outbox

async def main():
    outbox = await Outbox(Bounds(1000, 10_000_000, 3600), Path(sys.argv[1])).__aenter__()
    for number in range(5):
        outbox.put(emotion_event(number))
    assert await outbox.first() == emotion_event(0)
    outbox.delivered()
    assert await outbox.first() == emotion_event(1)
    assert (outbox.storage, outbox.unsaved) == ("failing", 4)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    await until(lambda: outbox.storage == "disk" and outbox.unsaved == 0)
    os._exit(0)  # as a kill would

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), 1 << 30))
asyncio.run(main())
"""


@pytest.mark.parametrize("room", [0, 5000])
def test_a_disk_that_is_full_at_the_start_keeps_what_waits_once_there_is_room(tmp_path: Path, room: int) -> None:
    command = [sys.executable, "-c", FULL_AT_THE_START, str(tmp_path / "outbox"), str(room)]
    ended = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "cannot write the outbox" in ended.stderr
    kept = [EmotionEvent.from_json(entry.payload).event_id for entry in found(tmp_path / "outbox")]
    assert kept == [f"event-{number}" for number in range(1, 5)]


def test_a_disk_that_is_full_at_the_start_is_told_of_as_such(tmp_path: Path) -> None:
    program = (
        "import resource, sys, sqlite3\nfrom pathlib import Path\nfrom streamer.mqtt.journal import open_journal\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    open_journal(Path(sys.argv[1]), 'full')\n"
        "except sqlite3.Error as error:\n    print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "outbox")], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "disk" in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("synchronous", ["full", "normal"])
def test_a_power_cut(tmp_path: Path, synchronous: str) -> None:
    """`full` loses nothing that was accepted; `normal` can lose the newest, and never damages the file."""
    state = tmp_path / "state"
    filled(state / "outbox", count=0)
    recorder = Recorder(tmp_path, state)
    command = [sys.executable, HERE / "accepting.py", state / "outbox", synchronous, "150"]
    subprocess.run(command, env={**os.environ, **recorder.environment}, check=True, timeout=120)
    records = recorder.records()
    chance = random.Random(3)
    lost = 0
    for cut in range(100):
        before = records[: chance.randrange(len(records))]
        recorder.cut(before, chance, tmp_path / f"cut-{cut}")
        with closing(Journal(tmp_path / f"cut-{cut}" / "outbox", "full")) as journal:
            events = [EmotionEvent.from_json(entry.payload) for entry in journal.entries()]
        numbers = [int(event.event_id.removeprefix("event-")) for event in events]
        assert numbers == sorted(set(numbers))
        lost += len((marks(before, ACCEPTED) - marks(before, DELIVERED)) - set(numbers))
    assert (lost == 0) == (synchronous == "full")


def test_where_an_outbox_lies() -> None:
    home = {"HOME": "/home/me"}
    assert outbox_path(Mqtt(), "desk", home) == Path("/home/me/.local/state/telme-live/outbox-desk.sqlite3")
    assert outbox_path(Mqtt(), "desk", {**home, "XDG_STATE_HOME": "/state"}) == Path(
        "/state/telme-live/outbox-desk.sqlite3"
    )
    assert outbox_path(Mqtt(), "desk", {**home, "XDG_STATE_HOME": "relative"}) == outbox_path(Mqtt(), "desk", home)
    assert outbox_path(Mqtt(outbox="/data/box"), "desk", {}) == Path("/data/box")
    assert outbox_path(Mqtt(outbox="none"), "desk", home) is None
    assert outbox_path(Mqtt(outbox=""), "desk", home) is None
    assert outbox_path(Mqtt(broker="embedded"), "desk", home) is None
    assert outbox_path(Mqtt(broker="embedded", outbox="/data/box"), "desk", home) == Path("/data/box")
    with pytest.raises(OutboxError, match=r"neither XDG_STATE_HOME nor HOME"):
        outbox_path(Mqtt(), "desk", {})
