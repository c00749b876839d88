"""Publishing to a real mosquitto and to the embedded broker, as an independent subscriber sees it."""

import asyncio
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from aiomqtt import ProtocolVersion
from brokers import PATIENCE_S, Mosquitto, Subscriber, program, running_mosquitto, until
from emotion_events import INFO, emotion_event

from streamer.events import EmotionEvent
from streamer.mqtt import outbox
from streamer.mqtt.address import Address
from streamer.mqtt.embedded import EmbeddedBroker
from streamer.mqtt.errors import BrokerError, TakenOverError
from streamer.mqtt.info import Info
from streamer.mqtt.journal import Journal, Synchronous, open_journal
from streamer.mqtt.outbox import Bounds, Outbox
from streamer.mqtt.password import read_password
from streamer.mqtt.publisher import Publisher, _full_jitter_s
from streamer.settings import Mqtt

QUICK = Mqtt(connect_timeout_s=2)


def publisher(url: str, settings: Mqtt = QUICK, password: str | None = None) -> Publisher:
    return Publisher(settings, Address.parse(url), "robot", password)


@asynccontextmanager
async def online(url: str, settings: Mqtt = QUICK) -> AsyncIterator[Publisher]:
    async with publisher(url, settings) as connected:
        await connected.first_connection()
        connected.ready(INFO)
        yield connected


def ids(heard: list[str]) -> list[str]:
    return [EmotionEvent.from_json(payload).event_id for payload in heard]


def payloads(subscriber: Subscriber, topic_end: str) -> list[str]:
    return [heard.payload for heard in subscriber.on(topic_end)]


async def test_events_arrive_in_order_and_the_last_one_becomes_the_state(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        async with online(mosquitto.url) as connected:
            for number in range(20):
                connected.publish(emotion_event(number))
            await subscriber.wait_for("/main/arousal")
            status = connected.status()
        await subscriber.wait_for("/availability", 2)
    utterances = subscriber.on("telme/robot/main/utterance")
    assert [EmotionEvent.from_json(heard.payload) for heard in utterances] == [emotion_event(n) for n in range(20)]
    assert {(heard.qos, heard.retain) for heard in utterances} == {(1, False)}
    assert (status.published, status.waiting, status.dropped, status.reconnects) == (20, 0, 0, 0)
    assert payloads(subscriber, "/main/state")[-1] == emotion_event(19).to_json()
    assert payloads(subscriber, "/main/label")[-1] == "joy"
    assert payloads(subscriber, "/main/valence")[-1] == "0.500"
    assert payloads(subscriber, "/main/arousal")[-1] == "-0.250"


async def test_who_comes_later_gets_state_info_and_availability_but_no_old_label(mosquitto: Mosquitto) -> None:
    async with online(mosquitto.url) as connected:
        with Subscriber(mosquitto.port) as early:
            connected.publish(emotion_event(1))
            await early.wait_for("/main/arousal")
        with Subscriber(mosquitto.port) as late:
            await late.wait_for("", 3)
            assert {heard.topic for heard in late.heard} == {
                "telme/robot/availability",
                "telme/robot/info",
                "telme/robot/main/state",
            }
            assert all(heard.retain for heard in late.heard)
            assert Info.model_validate_json(late.on("/info")[0].payload) == INFO


async def test_provisional_events_have_a_topic_of_their_own_and_do_not_become_the_state(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        async with online(mosquitto.url) as connected:
            connected.publish(emotion_event(1, phase="provisional"))
            await subscriber.wait_for("/main/provisional")
            connected.publish(emotion_event(1))
            await subscriber.wait_for("/main/arousal")
            connected.publish(emotion_event(2, phase="provisional"))
            connected.publish(emotion_event(3, phase="provisional"))
            await subscriber.wait_for("/main/provisional", 2)
            status = connected.status()
    early = subscriber.on("/main/provisional")
    assert ids([message.payload for message in early]) == ["event-1", "event-3"]
    assert {(message.qos, message.retain) for message in early} == {(0, False)}
    assert payloads(subscriber, "/main/utterance") == [emotion_event(1).to_json()]
    assert payloads(subscriber, "/main/state") == [emotion_event(1).to_json()]
    assert (status.published, status.provisional, status.superseded, status.dropped) == (1, 2, 1, 0)


async def test_mqtt_5_properties(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        async with online(mosquitto.url, QUICK.model_copy(update={"expiry_s": 42})) as connected:
            connected.publish(emotion_event(1))
            await subscriber.wait_for("/main/arousal")
    (utterance,), (state,), (label,) = (subscriber.on(f"/main/{end}") for end in ("utterance", "state", "label"))
    assert utterance.properties.ContentType == state.properties.ContentType == "application/json"
    assert label.properties.ContentType == "text/plain"
    assert 0 < utterance.properties.MessageExpiryInterval <= 42
    assert not hasattr(state.properties, "MessageExpiryInterval")


async def test_the_payload_suffices_where_only_mqtt_311_is_spoken() -> None:
    async with EmbeddedBroker(0) as broker:
        port = Address.parse(broker.url).port
        with Subscriber(port, protocol=paho.MQTTv311) as subscriber:
            async with online(broker.url) as connected:
                for number in range(20):
                    connected.publish(emotion_event(number))
                await subscriber.wait_for("/main/arousal")
                subscriber.publish("telme/robot/request/none", b'{"transaction": 7}')
                (response,) = await subscriber.wait_for("/response/none")
            await subscriber.wait_for("/availability", 2)
        assert ids(payloads(subscriber, "/main/utterance")) == [f"event-{number}" for number in range(20)]
        assert payloads(subscriber, "/main/state")[-1] == emotion_event(19).to_json()
        assert payloads(subscriber, "/availability") == ["online", "stopped"]
        assert '"transaction":7' in response.payload
        with Subscriber(port, protocol=paho.MQTTv311) as late:
            await late.wait_for("", 3)
            assert all(heard.retain for heard in late.heard)


async def test_online_is_said_when_the_pipeline_is_ready_and_stopped_at_the_end(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        async with publisher(mosquitto.url) as connected:
            await connected.first_connection()
            connected.publish(emotion_event(1))
            await asyncio.sleep(0.2)
            assert subscriber.heard == []
            connected.ready(INFO)
            await subscriber.wait_for("/main/utterance")
        await subscriber.wait_for("/availability", 2)
    assert payloads(subscriber, "/availability") == ["online", "stopped"]
    assert [heard.topic.rpartition("/")[2] for heard in subscriber.heard][:3] == ["info", "availability", "utterance"]


async def test_leaving_by_an_error_says_offline(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what leaves the block is the point
            async with online(mosquitto.url):
                await subscriber.wait_for("/availability")
                raise ZeroDivisionError
        await subscriber.wait_for("/availability", 2)
    assert payloads(subscriber, "/availability") == ["online", "offline"]


CHILD = """
import asyncio, sys
from emotion_events import INFO
from streamer.mqtt.address import Address
from streamer.mqtt.publisher import Publisher, _full_jitter_s
from streamer.settings import Mqtt

async def main():
    async with Publisher(Mqtt(), Address.parse(sys.argv[1]), "robot") as publisher:
        await publisher.first_connection()
        publisher.ready(INFO)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def availability_when_killed(url: str, subscriber: Subscriber) -> list[str]:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, url, cwd=Path(__file__).parent)
    try:
        await subscriber.wait_for("/availability")
    finally:
        child.kill()
        await child.wait()
    await subscriber.wait_for("/availability", 2)
    return payloads(subscriber, "/availability")


async def test_a_crash_says_offline(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        assert await availability_when_killed(mosquitto.url, subscriber) == ["online", "offline"]


async def test_a_crash_says_offline_on_the_embedded_broker() -> None:
    async with EmbeddedBroker(0) as broker:
        with Subscriber(Address.parse(broker.url).port, protocol=paho.MQTTv311) as subscriber:
            assert await availability_when_killed(broker.url, subscriber) == ["online", "offline"]


async def test_nothing_is_lost_when_the_broker_is_killed_while_events_are_under_way(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port, protocol=paho.MQTTv311) as subscriber:
        async with online(mosquitto.url) as connected:
            for number in range(5):
                connected.publish(emotion_event(number))
            await subscriber.wait_for("/main/utterance", 5)
            mosquitto.save()
            mosquitto.send(signal.SIGSTOP)
            for number in range(5, 30):
                connected.publish(emotion_event(number))
            await asyncio.sleep(0.2)  # the first of them is on its way to a broker that reads no more
            mosquitto.kill()
            await asyncio.sleep(0.2)
            mosquitto.start()
            await until(lambda: "event-29" in ids(payloads(subscriber, "/main/utterance")))
            await until(lambda: connected.status().waiting == 0)
            status = connected.status()
    # The broker may have saved messages as not yet delivered: those come twice, under the same id.
    heard = dict.fromkeys(ids(payloads(subscriber, "/main/utterance")))
    assert list(heard) == [f"event-{number}" for number in range(30)]
    assert (status.published, status.dropped, status.reconnects) == (30, 0, 1)
    # Said again on the new connection; the broker itself says offline only for a client that it lost.
    assert payloads(subscriber, "/availability")[:2] == ["online", "online"]


async def test_nothing_is_lost_when_the_broker_freezes(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        async with online(mosquitto.url, Mqtt(connect_timeout_s=0.3)) as connected:
            connected.publish(emotion_event(0))
            await subscriber.wait_for("/main/arousal")
            mosquitto.send(signal.SIGSTOP)
            for number in range(1, 10):
                connected.publish(emotion_event(number))
            await until(lambda: not connected.status().connected)
            await asyncio.sleep(1)
            mosquitto.send(signal.SIGCONT)
            await until(lambda: "event-9" in ids(payloads(subscriber, "/main/utterance")))
            await until(lambda: connected.status().waiting == 0)
            assert connected.status().dropped == 0
    heard = dict.fromkeys(ids(payloads(subscriber, "/main/utterance")))
    assert list(heard) == [f"event-{number}" for number in range(10)]


@asynccontextmanager
async def deaf_proxy(port: int) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """Passes everything on to `port`; once `deafen` is called, the broker's answers on that connection are swallowed
    and, shortly after, the connection is cut."""
    deaf = False

    def deafen() -> None:
        nonlocal deaf
        deaf = True

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        nonlocal deaf
        while data := await reader.read(65_536):
            if answers and deaf:
                deaf = False
                break
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            pass_on(reader, broker_writer, answers=False),
            pass_on(broker_reader, writer, answers=True),
            return_exceptions=True,
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], deafen
    finally:
        server.close()


async def test_an_event_whose_acknowledgement_is_lost_comes_again_under_the_same_id(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        async with deaf_proxy(mosquitto.port) as (port, deafen), online(f"mqtt://127.0.0.1:{port}") as connected:
            connected.publish(emotion_event(1))
            await subscriber.wait_for("/main/arousal")
            deafen()
            connected.publish(emotion_event(2))
            connected.publish(emotion_event(3))
            await subscriber.wait_for("/main/utterance", 4)
    heard = ids(payloads(subscriber, "/main/utterance"))
    assert heard == ["event-1", "event-2", "event-2", "event-3"]


async def test_a_full_queue_drops_and_counts_the_oldest(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        async with publisher(mosquitto.url, QUICK.model_copy(update={"queue_max": 5})) as connected:
            await connected.first_connection()
            for number in range(8):
                connected.publish(emotion_event(number))
            assert (connected.status().waiting, connected.status().dropped) == (5, 3)
            connected.ready(INFO)
            await subscriber.wait_for("/main/arousal")
    assert ids(payloads(subscriber, "/main/utterance")) == [f"event-{number}" for number in (3, 4, 5, 6, 7)]
    # Labels of a backlog would make a robot act out what is long over: only the last one is said.
    assert payloads(subscriber, "/main/label") == ["joy"]
    assert payloads(subscriber, "/main/state") == [emotion_event(7).to_json()]


async def test_what_a_disk_gives_back_late_is_delivered_and_changes_no_state(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last event of a program that ended, found after this one had said something newer."""
    path = tmp_path / "outbox"
    async with Outbox(Bounds(10, 1_000_000, 3600), path) as earlier:
        earlier.put(emotion_event(1))
    full = threading.Event()
    full.set()

    def opened(path: Path, synchronous: Synchronous) -> Journal:
        if full.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        return open_journal(path, synchronous)

    monkeypatch.setattr(outbox, "open_journal", opened)
    monkeypatch.setattr(outbox, "_REOPEN_S", 0.01)
    with Subscriber(mosquitto.port) as subscriber:
        async with Publisher(QUICK, Address.parse(mosquitto.url), "robot", outbox=path) as connected:
            await connected.first_connection()
            connected.ready(INFO)
            connected.publish(emotion_event(2))
            await subscriber.wait_for("/main/arousal")
            full.clear()
            await subscriber.wait_for("/main/utterance", 2)
            await until(lambda: connected.status().waiting == 0)
        await subscriber.wait_for("/availability", 2)
    assert ids(payloads(subscriber, "/main/utterance")) == ["event-2", "event-1"]
    assert ids(payloads(subscriber, "/main/state")) == ["event-2"]
    assert len(subscriber.on("/main/label")) == 1


async def test_a_broker_that_forgot_everything_is_told_again(tmp_path: Path) -> None:
    with running_mosquitto(tmp_path / "broker", "allow_anonymous true", "persistence false") as mosquitto:
        async with online(mosquitto.url) as connected:
            connected.publish(emotion_event(1))
            await until(lambda: connected.status().published == 1)
            await asyncio.sleep(0.2)
            mosquitto.kill()
            mosquitto.start()
            with Subscriber(mosquitto.port) as subscriber:
                await subscriber.wait_for("/availability")
                await subscriber.wait_for("/main/state")
    assert payloads(subscriber, "/main/state") == [emotion_event(1).to_json()]


async def test_stopping_is_bounded_when_the_broker_is_gone(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async with online(mosquitto.url, QUICK.model_copy(update={"flush_s": 0.5})) as connected:
        connected.publish(emotion_event(0))
        await until(lambda: connected.status().published == 1)
        mosquitto.send(signal.SIGSTOP)
        for number in range(1, 4):
            connected.publish(emotion_event(number))
        await asyncio.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert (connected.status().published, connected.status().dropped, connected.status().waiting) == (1, 3, 0)
    assert "undelivered" in caplog.text


@pytest.mark.parametrize("protocol", [ProtocolVersion.V5, ProtocolVersion.V311])
async def test_who_leaves_a_stalled_broker_is_offline_once_it_goes_on(
    mosquitto: Mosquitto, protocol: ProtocolVersion
) -> None:
    connected = publisher(mosquitto.url, QUICK.model_copy(update={"flush_s": 0.1}))
    connected._protocol = protocol
    with Subscriber(mosquitto.port) as subscriber:
        async with connected:
            connected.ready(INFO)
            await subscriber.wait_for("/availability")
            mosquitto.send(signal.SIGSTOP)
        mosquitto.send(signal.SIGCONT)
        await until(lambda: payloads(subscriber, "/availability")[-1] == "offline")


@pytest.mark.parametrize("protocol", [ProtocolVersion.V5, ProtocolVersion.V311])
async def test_of_two_programs_with_one_name_the_later_one_stays_and_the_other_ends_and_says_so(
    mosquitto: Mosquitto, protocol: ProtocolVersion
) -> None:
    first, second = publisher(mosquitto.url), publisher(mosquitto.url)
    first._protocol = second._protocol = protocol
    with Subscriber(mosquitto.port) as subscriber:
        with pytest.raises(TakenOverError, match=r"uses the node name 'robot'.*give each program its own --node"):  # noqa: PT012 - raised on leaving, too
            async with first:
                first.ready(INFO)
                await subscriber.wait_for("/availability")
                async with second:
                    second.ready(INFO.model_copy(update={"started_at": datetime.now(UTC)}))
                    with pytest.raises(BrokerError):
                        await first.failure()
                    second.publish(emotion_event(1))
                    await subscriber.wait_for("/main/arousal")
                    assert second.status().reconnects <= 2
                    assert payloads(subscriber, "/availability")[-1] == "online"
        await subscriber.wait_for("/main/state")
        await until(lambda: payloads(subscriber, "/availability")[-1] == "stopped")


async def test_a_predecessor_whose_clock_was_ahead_keeps_nobody_out(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        ahead = INFO.model_copy(update={"started_at": datetime.now(UTC) + timedelta(days=1)})
        async with publisher(mosquitto.url) as predecessor:
            predecessor.ready(ahead)
            await subscriber.wait_for("/availability")
        async with online(mosquitto.url) as connected:
            connected.publish(emotion_event(1))
            await until(lambda: connected.status().published == 1)


def test_a_predecessor_that_a_restarted_broker_shows_again_ends_nobody() -> None:
    ahead = INFO.model_copy(update={"started_at": datetime.now(UTC) + timedelta(days=1)})
    later = INFO.model_copy(update={"started_at": datetime.now(UTC) + timedelta(days=2)})
    connected = publisher("mqtt://localhost")
    connected._info = INFO
    connected._check_alone(ahead.model_dump_json().encode())
    connected._reconnects = 1
    connected._check_alone(ahead.model_dump_json().encode())
    with pytest.raises(TakenOverError):
        connected._check_alone(later.model_dump_json().encode())


async def test_pauses_grow_while_a_broker_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it takes longer to give up than a steady connection holds."""
    paused_after: list[int] = []
    monkeypatch.setattr("streamer.mqtt.publisher._STEADY_S", 0.01)
    monkeypatch.setattr("streamer.mqtt.publisher._full_jitter_s", lambda failures: paused_after.append(failures) or 0.0)
    silent = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent:
        connected = publisher(f"mqtt://127.0.0.1:{port}", QUICK.model_copy(update={"connect_timeout_s": 0.1}))
        connected._connected_once.set()
        keeping = asyncio.create_task(connected._keep_connected())
        await until(lambda: len(paused_after) >= 4)
        keeping.cancel()
    assert paused_after[:4] == [0, 1, 2, 3]


@pytest.mark.parametrize("failures", range(0, 12, 3))
def test_pauses_before_reconnecting_lie_anywhere_below_a_bound_that_doubles(failures: int) -> None:
    bound = min(30.0, 0.25 * 2**failures)
    pauses = [_full_jitter_s(failures) for _ in range(500)]
    assert 0 <= min(pauses) < 0.1 * bound
    assert 0.9 * bound < max(pauses) <= bound


def test_pauses_stay_bounded_however_often_connecting_fails() -> None:
    assert _full_jitter_s(10**9) <= 30


async def test_nothing_is_said_before_the_broker_has_accepted() -> None:
    """The first connection only asks for the protocol; the second one gets no CONNACK."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(heard)
        heard.append(b"")
        if number == 0:
            writer.write(bytes([0x20, 3, 0, 0, 0]))  # CONNACK of MQTT 5: success, no properties
        while data := await reader.read(65_536):
            heard[number] += data
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        waiting = publisher(f"mqtt://127.0.0.1:{port}", Mqtt(connect_timeout_s=1))
        waiting.ready(INFO)
        waiting.publish(emotion_event(1))
        with pytest.raises(BrokerError, match="cannot connect"):
            async with waiting:
                await waiting.first_connection()
    kind, length = heard[1][:2]
    assert kind == 0x10  # CONNECT, with the last will in it
    assert b"offline" in heard[1]
    assert heard[1][2 + length :] in (b"", bytes([0xE0, 0]))  # DISCONNECT


# What a user can mend: one sentence each.


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto where alice with the password `secret` may read all and write all but states."""
    passwords, rules = tmp_path / "passwords", tmp_path / "rules"
    subprocess.run([program("mosquitto_passwd"), "-b", "-c", passwords, "alice", "secret"], check=True)
    rules.write_text("user alice\ntopic read #\ntopic write telme/+/availability\ntopic write telme/+/main/utterance\n")
    options = ("allow_anonymous false", f"password_file {passwords}", f"acl_file {rules}")
    with running_mosquitto(tmp_path / "guarded", *options) as broker:
        yield broker


async def test_a_wrong_password_is_refused_for_good(guarded: Mosquitto) -> None:
    with pytest.raises(BrokerError, match="TELME_MQTT_PASSWORD") as refusal:
        async with publisher(guarded.url.replace("//", "//alice@"), password="wrong") as refused:
            await refused.first_connection()
    assert "wrong" not in str(refusal.value)
    with pytest.raises(BrokerError):
        await refused.failure()


async def test_a_password_that_is_changed_later_is_final_too(guarded: Mosquitto, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"refuses the .*TELME_MQTT_PASSWORD"):  # noqa: PT012 - raised on leaving
        async with publisher(guarded.url.replace("//", "//alice@"), password="secret") as connected:
            await connected.first_connection()
            guarded.kill()
            change = ("-b", tmp_path / "passwords", "alice", "other")
            await (await asyncio.create_subprocess_exec(program("mosquitto_passwd"), *change)).wait()
            guarded.start()
            await connected.failure()


async def test_no_password_is_refused_for_good(guarded: Mosquitto) -> None:
    with pytest.raises(BrokerError, match="refuses"):
        async with publisher(guarded.url) as refused:
            await refused.first_connection()


async def test_messages_against_the_access_rules_are_counted_and_hold_nothing_up(guarded: Mosquitto) -> None:
    with Subscriber(guarded.port, user="alice") as subscriber:
        async with publisher(guarded.url.replace("//", "//alice@"), password="secret") as connected:
            await connected.first_connection()
            connected.ready(INFO)
            connected.publish(emotion_event(1))
            connected.publish(emotion_event(2))
            await subscriber.wait_for("/main/utterance", 2)
            await until(lambda: connected.status().denied == 2, lambda: str(connected.status()))  # info and state
    assert connected.status().published == 2


async def test_a_broker_that_is_not_there() -> None:
    with pytest.raises(BrokerError, match=r"mqtt://127\.0\.0\.1:1 .*refused"):
        async with publisher("mqtt://127.0.0.1:1") as unconnected:
            await unconnected.first_connection()


async def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(BrokerError, match="no-such-host"):
        async with publisher("mqtt://no-such-host.invalid") as unconnected:
            await unconnected.first_connection()


@contextmanager
def silent_server(*, full: bool) -> Iterator[int]:
    """Takes connections and says nothing; when `full`, takes none either, like a host behind a firewall."""
    with socket.create_server(("127.0.0.1", 0), backlog=0 if full else 8) as server:
        waiting = [socket.socket() for _ in range(4 if full else 0)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]
        for client in waiting:
            client.close()


@pytest.mark.parametrize("full", [True, False], ids=["unreachable", "mute"])
async def test_a_broker_that_does_not_answer_is_not_waited_for_longer_than_set(full: bool) -> None:
    began = time.monotonic()
    with silent_server(full=full) as port, pytest.raises(BrokerError, match=str(port)):
        async with publisher(f"mqtt://127.0.0.1:{port}", Mqtt(connect_timeout_s=0.5)) as unconnected:
            await unconnected.first_connection()
    assert time.monotonic() - began < 3


# TLS, with an authority of our own.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and certificates signed by it for server and client; other.pem is a stranger."""
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*arguments: str) -> None:
        subprocess.run([program("openssl"), *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("ca", "other"):
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        openssl(*new, "-x509", "-subj", f"/CN={name}", *usage, "-keyout", f"{name}.key", "-out", f"{name}.pem")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    for name in ("server", "client"):
        openssl(*(part for part in new if part not in {"-days", "2"}), "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
    return folder


@pytest.fixture
def encrypted(tmp_path: Path, authority: Path) -> Iterator[Mosquitto]:
    """A mosquitto that speaks TLS and asks for a certificate of the authority."""
    files = (f"cafile {authority}/ca.pem", f"certfile {authority}/server.pem", f"keyfile {authority}/server.key")
    with running_mosquitto(tmp_path / "tls", "allow_anonymous true", *files, "require_certificate true") as broker:
        yield broker


def tls_settings(url: str, authority: Path, ca: str = "ca", client: str | None = "client") -> Mqtt:
    files = {"ca_file": authority / f"{ca}.pem"}
    if client is not None:
        files |= {"cert_file": authority / f"{client}.pem", "key_file": authority / f"{client}.key"}
    return Mqtt.model_validate({"url": url, "connect_timeout_s": 2, **files})


async def test_an_encrypted_connection(encrypted: Mosquitto, authority: Path) -> None:
    url = encrypted.url.replace("mqtt:", "mqtts:")
    async with online(url, tls_settings(url, authority)) as connected:
        connected.publish(emotion_event(1))
        await until(lambda: connected.status().published == 1)


@pytest.mark.parametrize(
    ("ca", "client", "says"),
    [
        ("other", "client", "CERTIFICATE_VERIFY_FAILED"),
        ("ca", None, "refuses the certificate .*CERTIFICATE_REQUIRED.* mqtt.cert_file and mqtt.key_file"),
        ("ca", "other", "refuses the certificate .*UNKNOWN_CA.* mqtt.cert_file and mqtt.key_file"),
        ("missing", None, "mqtt.ca_file .*missing.pem"),
        ("ca", "missing", "mqtt.cert_file .*missing.pem"),
    ],
)
async def test_an_encrypted_connection_that_cannot_be(
    encrypted: Mosquitto, authority: Path, ca: str, client: str | None, says: str
) -> None:
    url = encrypted.url.replace("mqtt:", "mqtts:")
    with pytest.raises(BrokerError, match=says):
        async with publisher(url, tls_settings(url, authority, ca, client)) as unconnected:
            await unconnected.first_connection()


async def test_a_certificate_that_is_no_longer_trusted_is_refused_for_good(
    encrypted: Mosquitto, authority: Path
) -> None:
    url = encrypted.url.replace("mqtt:", "mqtts:")
    with pytest.raises(BrokerError, match=r"refuses the certificate .*mqtt\.cert_file"):  # noqa: PT012 - raised on leaving
        async with online(url, tls_settings(url, authority)) as connected:
            await until(lambda: connected.status().connected)
            encrypted.kill()
            encrypted.reconfigure(f"cafile {authority}/ca.pem", f"cafile {authority}/other.pem")
            encrypted.start()
            await asyncio.wait_for(connected.failure(), PATIENCE_S)


async def test_a_connection_that_is_closed_without_an_answer_is_told_at_once(encrypted: Mosquitto) -> None:
    """Not encrypted, at a port that expects it."""
    with pytest.raises(BrokerError, match="whether it wants mqtts://"):
        async with asyncio.timeout(PATIENCE_S), publisher(encrypted.url, Mqtt(connect_timeout_s=60)) as unconnected:
            await unconnected.first_connection()


async def test_a_connection_that_is_closed_without_an_answer_is_tried_again_later(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        async with online(mosquitto.url, Mqtt(connect_timeout_s=60)) as connected:
            await subscriber.wait_for("/availability")
            mosquitto.kill()
            closed: list[asyncio.StreamWriter] = []

            def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                closed.append(writer)
                writer.close()

            async with await asyncio.start_server(close, "127.0.0.1", mosquitto.port):
                await until(lambda: len(closed) >= 2)
            mosquitto.start()
            connected.publish(emotion_event(1))
            await until(lambda: connected.status().published == 1)


async def test_a_certificate_for_another_host_is_not_trusted(encrypted: Mosquitto, authority: Path) -> None:
    url = encrypted.url.replace("mqtt:", "mqtts:").replace("127.0.0.1", "localhost")
    with pytest.raises(BrokerError, match="CERTIFICATE_VERIFY_FAILED"):
        async with publisher(url, tls_settings(url, authority)) as unconnected:
            await unconnected.first_connection()


def test_where_the_password_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "password"
    assert read_password(None, {}) is None
    assert read_password(None, {"TELME_MQTT_PASSWORD": "secret"}) == "secret"
    file.write_text("from file\n")
    assert read_password(file, {"TELME_MQTT_PASSWORD": "secret"}) == "from file"
    file.write_text("\n")
    with pytest.raises(BrokerError, match="is empty"):
        read_password(file, {})
    with pytest.raises(BrokerError, match="cannot read"):
        read_password(tmp_path / "none", {})
