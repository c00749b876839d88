"""The word to systemd, heard at a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamer.systemd import ServiceManager


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address)
        heard.settimeout(5)
        yield heard


def said(heard: socket.socket) -> str:
    return heard.recv(4096).decode()


@pytest.mark.parametrize("abstract", [False, True])
def test_everything_is_told_as_sd_notify_writes_it(tmp_path: Path, abstract: bool) -> None:
    name = f"@telme-{os.getpid()}" if abstract else str(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    with listening(name.replace("@", "\0")) as heard, ServiceManager(environment) as manager:
        assert manager.watchdog_s == 15
        manager.ready()
        assert said(heard) == "READY=1"
        manager.alive()
        assert said(heard) == "WATCHDOG=1"
        manager.status("degraded; the broker\nis away")
        assert said(heard) == "STATUS=degraded; the broker is away"
        manager.status("degraded; the broker\nis away")
        manager.reloading()
        lines = said(heard).splitlines()
        assert lines[0] == "RELOADING=1"
        assert lines[1].startswith("MONOTONIC_USEC=")
        manager.stopping()
        assert said(heard) == "STOPPING=1"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
def test_nobody_watches_where_nobody_asks(tmp_path: Path, environment: dict[str, str]) -> None:
    path = str(tmp_path / "notify")
    with listening(path) as heard, ServiceManager({"NOTIFY_SOCKET": path, **environment}) as manager:
        assert manager.watchdog_s is None
        manager.alive()
        manager.ready()
        assert said(heard) == "READY=1"


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative", "/no/such/socket"])
def test_a_manager_that_cannot_be_told_costs_nothing(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with ServiceManager({"NOTIFY_SOCKET": address}) as manager:
        for _ in range(3):
            manager.ready()
    assert len(caplog.records) == (0 if address == "" else 1)


def test_a_manager_that_does_not_listen_is_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with listening(path), ServiceManager({"NOTIFY_SOCKET": path}) as manager:
        for _ in range(100_000):
            manager.ready()
