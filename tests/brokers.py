"""A real mosquitto for tests, and an independent subscriber (paho) that writes down what it hears."""

import asyncio
import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PATIENCE_S = 15.0
_SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def program(name: str) -> str:
    """The path of an installed program; the test fails where it is missing."""
    path = shutil.which(name, path=_SYSTEM_PATH)
    if path is None:
        pytest.fail(f"{name} is missing: install the packages listed in tests/system-packages")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Mosquitto:
    """mosquitto on a free loopback port, with persistence, so that subscriptions outlive a kill."""

    def __init__(self, folder: Path, *options: str) -> None:
        """`options` are lines of its configuration, in place of `allow_anonymous true`."""
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self._log = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        self._database = folder / "mosquitto.db"
        self._config.write_text(
            "\n".join(
                [
                    f"user {getpass.getuser()}",
                    "persistence true",
                    f"persistence_location {folder}/",
                    f"listener {self.port} 127.0.0.1",
                    *(options or ["allow_anonymous true"]),
                    "",
                ]
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = [program("mosquitto"), "-c", str(self._config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        pytest.fail(f"mosquitto does not start: {self._log.read_text()}")

    def reconfigure(self, old: str, new: str) -> None:
        """For the next start: a line of its configuration in place of another."""
        self._config.write_text(self._config.read_text().replace(old, new))

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def save(self) -> None:
        """Write sessions and retained messages to disk now."""
        self._database.unlink(missing_ok=True)
        self.send(signal.SIGUSR1)
        wait_until(self._database.exists)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None


@contextlib.contextmanager
def running_mosquitto(folder: Path, *options: str) -> Iterator[Mosquitto]:
    broker = Mosquitto(folder, *options)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto that anybody may use."""
    with running_mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@dataclass(frozen=True)
class Heard:
    topic: str
    payload: str
    qos: int
    retain: bool
    properties: Properties | None


class Subscriber:
    """Writes down all messages on its topics, in order. Comes back by itself after an outage.

    With MQTT 3.1.1 its session outlives a mosquitto that is killed; mosquitto 2.0.11 forgets those of MQTT 5.
    """

    def __init__(self, port: int, *filters: str, protocol: int = paho.MQTTv5, user: str | None = None) -> None:
        self.heard: list[Heard] = []
        self.connections = 0
        self._port = port
        self._filters = filters or ("telme/#",)
        self._is_5 = protocol == paho.MQTTv5
        self._subscribed = threading.Event()
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=f"listener-{os.urandom(4).hex()}",
            protocol=protocol,
            clean_session=None if self._is_5 else False,
        )
        if user is not None:
            self._client.username_pw_set(user, "secret")
        self._client.reconnect_delay_set(0.1, 0.2)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE_S)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: str | bytes, *, retain: bool = False, **properties: Any) -> None:
        """`properties`: of MQTT 5, as in ResponseTopic="a/b"."""
        carried = Properties(PacketTypes.PUBLISH) if properties else None
        for name, value in properties.items():
            setattr(carried, name, value)
        self._client.publish(topic, payload, qos=1, retain=retain, properties=carried).wait_for_publish(PATIENCE_S)

    def send(self, topic: str, payload: str) -> None:
        """Publish without waiting for the broker."""
        self._client.publish(topic, payload, qos=1)

    def on(self, topic_end: str) -> list[Heard]:
        return [heard for heard in list(self.heard) if heard.topic.endswith(topic_end)]

    async def wait_for(self, topic_end: str, count: int = 1) -> list[Heard]:
        """What was heard on topics that end so, once there are `count` of them."""
        await until(lambda: len(self.on(topic_end)) >= count, lambda: f"heard {self.heard}")
        return self.on(topic_end)

    def _on_connect(self, client: paho.Client, _: Any, flags: paho.ConnectFlags, *__: Any) -> None:
        self.connections += 1
        if not flags.session_present:
            client.subscribe([(topic, SubscribeOptions(qos=1) if self._is_5 else 1) for topic in self._filters])

    def _on_message(self, client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        properties = getattr(message, "properties", None)
        payload = message.payload.decode()
        self.heard.append(Heard(message.topic, payload, message.qos, message.retain, properties))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def until(
    condition: Callable[[], bool], complaint: Callable[[], str] = lambda: "", patience_s: float = PATIENCE_S
) -> None:
    """Wait, in an event loop, for what happens elsewhere."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, complaint()
        await asyncio.sleep(0.01)
