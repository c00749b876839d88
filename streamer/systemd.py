"""A word to systemd: ready, alive, stopping. The protocol is sd_notify(3)'s: lines in a datagram."""

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Self

log = logging.getLogger(__name__)


class ServiceManager:
    """Tells systemd, or whoever else listens on the socket that NOTIFY_SOCKET names; without one, nobody.

    Telling never waits. What cannot be told is logged once: systemd then acts as if the program had died.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._limit_s = _watchdog_s(environment)
        self._status = ""
        self._complained = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    @property
    def watchdog_s(self) -> float | None:
        """How often `alive` is to be said, in seconds: twice as often as is asked for. None: systemd does not watch."""
        return None if self._limit_s is None else self._limit_s / 2

    def ready(self) -> None:
        """The service is up, or done with reloading."""
        self._tell("READY=1")

    def alive(self) -> None:
        """Not saying this in time has systemd kill the service and start it again."""
        if self._limit_s is not None:
            self._tell("WATCHDOG=1")

    def status(self, sentence: str) -> None:
        """What `systemctl status` shows. Saying the same again is not told."""
        if sentence != self._status:
            self._status = sentence
            self._tell(f"STATUS={' '.join(sentence.split())}")

    def reloading(self) -> None:
        """To be followed by `ready`, whatever comes of it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning("cannot tell the service manager %s: %s", lines[0], error.strerror)


def _address(name: str) -> str | None:
    """A path, or a name in the abstract namespace, which systemd writes with an @ in front."""
    if name.startswith("@"):
        return f"\0{name[1:]}"
    if name.startswith("/"):
        return name
    if name:
        log.warning(
            "NOTIFY_SOCKET=%s is neither a path nor an abstract name: the service manager is told nothing", name
        )
    return None


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """WATCHDOG_USEC in seconds, where it is meant for this process."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isascii() or not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1e6
