"""No final event is lost: the broker and the program are killed at random while a thousand of them go out."""

import asyncio
import json
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from brokers import Mosquitto, Subscriber, running_mosquitto, until
from emotion_events import emotion_event
from streams import ACTED, CONVERSATION, run, running

from streamer.events import EmotionEvent
from streamer.mqtt.journal import open_journal
from streamer.mqtt.outbox import Bounds, Outbox

pytestmark = pytest.mark.slow

EVENTS = 1000
KILLS = 10  # of each
LONG_S = 120.0


class Gate:
    """A port that leads to the broker while it is open, and to nobody while it is not."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open = asyncio.Event()
        self._connections: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self.shut()

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open.clear()
        for writer in self._connections:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await self._open.wait()
            broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._to)
            self._connections |= {writer, broker_writer}
            await asyncio.gather(_pass_on(reader, broker_writer), _pass_on(broker_reader, writer))
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


@dataclass
class Program:
    """`publishing.py`, started again after each kill from the first event that it did not call accepted."""

    url: str
    outbox: Path
    accepted: list[int] = field(default_factory=list)
    done: bool = False

    async def run(self) -> None:
        while not self.done:
            script = str(Path(__file__).with_name("publishing.py"))
            first = str(len(self.accepted))
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, script, self.url, self.outbox, first, str(EVENTS),
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            await self._listen()

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if line == b"done\n":
                self.done = True
                self.kill()
            else:
                self.accepted.append(int(line))
        await self._process.wait()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """Sends what it has to the subscriber at once: what it keeps in memory a kill would take from it, not from us."""
    with running_mosquitto(tmp_path / "broker", "allow_anonymous true", "max_inflight_messages 0") as mosquitto:
        yield mosquitto


@pytest.mark.timeout(900)
async def test_a_thousand_events_survive_kills_of_broker_and_program(broker: Mosquitto, tmp_path: Path) -> None:
    chance = random.Random(7)
    gate = Gate(broker.port)
    with Subscriber(broker.port, "telme/+/+/utterance", protocol=paho.MQTTv311) as subscriber:
        broker.save()  # the subscription outlives the broker
        async with gate.listening() as url:
            program = Program(url, tmp_path / "outbox")
            running = asyncio.create_task(program.run())
            gate.open()
            kills = [broker.kill] * KILLS + [program.kill] * KILLS
            chance.shuffle(kills)
            for number, kill in enumerate(kills, start=1):
                threshold = number * EVENTS // (len(kills) + 1)
                await until(lambda least=threshold: len(program.accepted) >= least, patience_s=LONG_S)
                await asyncio.sleep(chance.uniform(0, 0.01))
                kill()
                if kill == broker.kill:
                    gate.shut()
                    await asyncio.sleep(chance.uniform(0, 0.3))
                    connections = subscriber.connections
                    broker.start()
                    await until(lambda before=connections: subscriber.connections > before, patience_s=LONG_S)
                    gate.open()
            await asyncio.wait_for(running, LONG_S)
            await subscriber.wait_for("utterance", EVENTS)
    heard = [EmotionEvent.from_json(message.payload) for message in subscriber.heard]
    once = dict.fromkeys(event.event_id for event in heard)
    assert program.accepted == list(range(EVENTS))
    assert list(once) == [f"event-{number}" for number in range(EVENTS)]
    assert heard[0] == emotion_event(0)
    # Everything was delivered, and so nothing stayed behind.
    async with Outbox(Bounds(EVENTS, 10_000_000, 3600), tmp_path / "outbox") as left:
        assert len(left) <= 1  # `done` and the kill can come before the last removal


async def test_events_of_a_stream_that_was_killed_arrive_after_its_next_start(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    flags = ("--mqtt", mosquitto.url, "--set", f"mqtt.outbox={tmp_path / 'outbox'}")
    with Subscriber(mosquitto.port, "telme/+/+/utterance") as subscriber:
        with running(tmp_path, "--media", CONVERSATION, *flags, asr="none") as stream:
            assert stream.process.stdout is not None
            lines = [await asyncio.to_thread(stream.process.stdout.readline)]
            await subscriber.wait_for("/utterance")
            mosquitto.send(signal.SIGSTOP)
            lines += [await asyncio.to_thread(stream.process.stdout.readline) for _ in range(2)]
            await asyncio.sleep(0.5)  # a busy disk has time to take the last one
            stream.stop(signal.SIGKILL)
        mosquitto.send(signal.SIGCONT)
        ended = run("--media", ACTED, "--fast", *flags, asr="none")
        assert ended.code == 0, ended.log
        assert "took up 2 undelivered event(s)" in ended.log
        heard = [json.loads(message.payload) for message in subscriber.on("/utterance")]
    said = [*map(json.loads, lines), *ended.events]
    assert list(dict.fromkeys(event["event_id"] for event in heard)) == [event["event_id"] for event in said]


def test_two_streams_on_one_outbox_are_refused_with_a_sentence(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with closing(open_journal(tmp_path / "outbox", "full")):
        outbox = f"mqtt.outbox={tmp_path / 'outbox'}"
        ended = run("--media", ACTED, "--fast", "--mqtt", mosquitto.url, "--set", outbox, asr="none")
    assert (ended.code, ended.events) == (2, [])
    (sentence,) = ended.log.splitlines()
    assert "outbox is in use by another telme-stream: give each its own --node or mqtt.outbox" in sentence
