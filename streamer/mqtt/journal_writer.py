"""The thread that writes the journal, so that the disk holds nobody up."""

import sqlite3
import threading
from collections.abc import Callable

from streamer.mqtt.journal import Entry, Journal

SETTLE_S = 1.0


class JournalWriter:
    """Brings additions and removals to disk, in batches: what arrives while it writes goes into the next one.

    What waits to be written is bounded by what the caller has not removed again: an addition that is removed before
    it was written never is. After `SETTLE_S` seconds of quiet the journal is settled. What fails is kept, and tried
    again with the next change or after `SETTLE_S`.

    written, failed: called in the thread, the one with the highest `seq` written so far, the other with the reason.
    """

    def __init__(self, journal: Journal, written: Callable[[int], None], failed: Callable[[str], None]) -> None:
        self._journal = journal
        self._written = written
        self._failed = failed
        self._highest = 0
        self._changed = threading.Condition()
        self._added: dict[int, Entry] = {}
        self._removed: set[int] = set()
        self._news = False
        self._settled = True
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def add(self, entry: Entry) -> None:
        """Returns at once, as all but `close` do. `seq` must rise."""
        with self._changed:
            self._added[entry.seq] = entry
            self._wake()

    def remove(self, seq: int) -> None:
        with self._changed:
            if self._added.pop(seq, None) is None:
                self._removed.add(seq)
                self._wake()

    def close(self, timeout_s: float) -> None:
        """Write what is left and close the journal; no longer than `timeout_s`."""
        with self._changed:
            self._closing = True
            self._wake()
        self._thread.join(timeout_s)

    def _wake(self) -> None:
        self._news = True
        self._changed.notify()

    def _run(self) -> None:
        while not self._write_next():
            pass
        self._journal.close()

    def _write_next(self) -> bool:
        """Wait for changes, or for quiet, and write; returns whether that was the last time."""
        with self._changed:
            self._changed.wait_for(lambda: self._news, None if self._settled else SETTLE_S)
            self._news = False
            added, self._added = self._added, {}
            removed, self._removed = self._removed, set()
            closing = self._closing
        try:
            if added or removed:
                self._journal.write(added.values(), removed)
            else:
                self._journal.settle()
        except sqlite3.Error as error:
            self._put_back(added, removed)
            self._failed(str(error))
        else:
            self._settled = not (added or removed)
            self._highest = max(added, default=self._highest)
            self._written(self._highest)
        return closing

    def _put_back(self, added: dict[int, Entry], removed: set[int]) -> None:
        with self._changed:
            outdated = added.keys() & self._removed
            self._added = {seq: entry for seq, entry in added.items() if seq not in outdated} | self._added
            self._removed |= removed
            self._settled = False
