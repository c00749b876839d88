"""A running stream and those who look after it: systemd, supervisors that ask over HTTP, and who sends it signals."""

import asyncio
import itertools
import json
import os
import pty
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from brokers import Mosquitto, Subscriber, free_port, wait_until
from streams import ASR, CONVERSATION, PATIENCE_S, command, environment, running
from test_health import fetch

pytestmark = pytest.mark.slow

WATCHDOG_S = 2.0


class Systemd:
    """The socket at which systemd listens; writes down what it hears."""

    def __init__(self, folder: Path) -> None:
        self.heard: list[str] = []
        self._path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self._path), "WATCHDOG_USEC": str(round(1e6 * WATCHDOG_S))}

    def until(self, word: str, patience_s: float = PATIENCE_S) -> None:
        """Listen until a line begins so."""
        deadline = time.monotonic() + patience_s
        while not self.says(word):
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            self.heard.extend(self._socket.recv(4096).decode().splitlines())

    def forget(self) -> None:
        """What was said so far."""
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while self._socket.recv(4096):
                pass
        self.heard.clear()

    def says(self, word: str) -> bool:
        return any(line.startswith(word) for line in self.heard)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listening = Systemd(tmp_path)
    yield listening
    listening.close()


def test_a_service_is_ready_alive_and_stopping(systemd: Systemd, tmp_path: Path) -> None:
    port = free_port()
    flags = ("--media", CONVERSATION, "--metrics", str(port))
    url = f"http://127.0.0.1:{port}/healthz"
    with running(tmp_path, *flags, extra=systemd.environment) as stream:
        stream.wait_for_log("health at")
        code, said = fetch(url)
        assert (code, said["state"]) in [(503, "starting"), (200, "ok")]
        systemd.until("READY=1")
        assert fetch(url) == (200, {"live": True, "state": "ok", "reasons": []})
        systemd.forget()
        systemd.until("WATCHDOG=1", 5 * WATCHDOG_S)
        systemd.until("STATUS=ok")
        systemd.forget()
        assert stream.stop() == 0
        systemd.until("STOPPING=1")


def test_a_stream_that_stands_still_is_not_alive(systemd: Systemd, tmp_path: Path) -> None:
    port = free_port()
    flags = ("--media", CONVERSATION, "--metrics", str(port))
    with running(tmp_path, *flags, extra=systemd.environment) as stream:
        systemd.until("READY=1")
        stream.process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        systemd.forget()
        with pytest.raises(TimeoutError):
            systemd.until("WATCHDOG=1", WATCHDOG_S)
        stream.process.send_signal(signal.SIGCONT)
        systemd.until("WATCHDOG=1")


def test_a_hang_up_reloads_what_can_change_and_refuses_the_rest(systemd: Systemd, tmp_path: Path) -> None:
    file = tmp_path / "stream.yaml"
    file.write_text("segmentation: {hangover_ms: 500}\n")
    with running(tmp_path, "--media", CONVERSATION, "--config", file, extra=systemd.environment) as stream:
        systemd.until("READY=1")

        def hang_up(text: str, says: str) -> None:
            systemd.forget()
            file.write_text(text)
            stream.process.send_signal(signal.SIGHUP)
            stream.wait_for_log(says)
            systemd.until("RELOADING=1")
            systemd.until("READY=1")

        hang_up(
            "segmentation: {hangover_ms: 300}\nlog: {level: debug}\n", "changed: segmentation.hangover_ms, log.level"
        )
        hang_up("segmentation: {hangover_ms: soon}\n", "not reloaded: Setting segmentation.hangover_ms = 'soon'")
        hang_up("node: desk\nsegmentation: {hangover_ms: 300}\n", "not reloaded: a change of node needs a restart")
        assert stream.process.poll() is None
        output, _ = stream.process.communicate(timeout=PATIENCE_S)
    events = [json.loads(line) for line in output.splitlines()]
    assert stream.process.returncode == 0
    assert round(events[-1]["latency_ms"]["endpoint"]) < 400


async def test_a_request_reloads(mosquitto: Mosquitto, tmp_path: Path) -> None:
    file = tmp_path / "stream.yaml"
    file.write_text("log: {level: info}\n")

    with (
        Subscriber(mosquitto.port) as subscriber,
        running(tmp_path, "--media", CONVERSATION, "--mqtt", mosquitto.url, "--config", file) as stream,
    ):
        asked = itertools.count(1)

        async def reload(text: str) -> dict[str, Any]:
            file.write_text(text)
            subscriber.publish("telme/telme/request/reload", b"")
            answers = await subscriber.wait_for("/response/reload", next(asked))
            answer: dict[str, Any] = json.loads(answers[-1].payload)
            return answer

        await asyncio.to_thread(stream.wait_for_log, "health: ok")
        assert (await reload("log: {level: warning}\n"))["data"] == {"changed": ["log.level"]}
        assert (await reload("log: {level: warning}\n"))["data"] == {"changed": []}
        refused = await reload("log: {level: debug}\nstream: other\n")
        assert (refused["status"], refused["error"]) == (
            "error",
            "a change of stream needs a restart; nothing was changed.",
        )
        assert (await reload("log: {\n"))["status"] == "error"
        subscriber.publish("telme/telme/request/status", b"")
        (status,) = await subscriber.wait_for("/response/status")
    assert json.loads(status.payload)["data"]["health"] == {"live": True, "state": "ok", "reasons": []}


async def test_a_broker_that_is_away_degrades(mosquitto: Mosquitto, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/healthz"
    flags = ("--media", CONVERSATION, "--mqtt", mosquitto.url, "--metrics", str(port))
    with running(tmp_path, *flags) as stream:
        await asyncio.to_thread(stream.wait_for_log, "health: ok")
        mosquitto.kill()
        await asyncio.to_thread(wait_until, lambda: fetch(url)[1]["state"] == "degraded")
        code, said = await asyncio.to_thread(fetch, url)
        assert (code, said["live"]) == (200, True)
        assert said["reasons"][0].startswith("the broker is away")


def test_a_terminal_that_is_closed_ends_the_stream_in_good_order() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("--media", CONVERSATION, "--asr", ASR),
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment(),
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # becomes the controlling terminal
    )
    os.close(theirs)
    said = b""
    while b"health: ok" not in said:
        said += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(PATIENCE_S) == 0
