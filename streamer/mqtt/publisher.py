"""Keeps a node connected to a broker: publishes its events, hears its requests."""

import asyncio
import logging
import math
import random
import ssl
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, NoReturn, Self

import aiomqtt
from aiomqtt import ProtocolVersion
from aiomqtt.exceptions import MqttCodeError, MqttConnectError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pydantic import ValidationError

from streamer.events import EmotionEvent
from streamer.mqtt import home_assistant
from streamer.mqtt.address import Address
from streamer.mqtt.client import (
    SESSION_TAKEN_OVER,
    UNSUPPORTED_PROTOCOL,
    CertificateError,
    Client,
    negotiate,
    reason_code,
)
from streamer.mqtt.errors import BrokerError, DeniedError, TakenOverError
from streamer.mqtt.info import Info, started_at
from streamer.mqtt.message import TEXT, Outgoing
from streamer.mqtt.outbox import Bounds, Delivery, Outbox
from streamer.mqtt.requests import MAX_BYTES, Handler, Request, RequestError, Responder, first_complaint
from streamer.mqtt.said import Said
from streamer.mqtt.tls import tls_context
from streamer.mqtt.topics import Topics
from streamer.settings import Mqtt

log = logging.getLogger(__name__)

_PAUSE_FIRST_S = 0.25
_PAUSE_MAX_S = 30.0
_STEADY_S = 10.0  # a connection that held so long lets the next pauses begin short again
_LAST_WORD_S = 1.0
_WAITING_MAX = 64  # requests, and as many responses
_PACKET_MAX = 4 * MAX_BYTES  # larger ones an MQTT 5 broker keeps to itself

_NAMES = {ProtocolVersion.V5: "5", ProtocolVersion.V311: "3.1.1"}
_REFUSED_FOR_GOOD = {
    133: "the client identifier",
    134: "the user name or the password",
    135: "the connection as not authorised",
    138: "the client as banned",
    140: "the way of authentication",
}


@dataclass(frozen=True)
class PublisherStatus:
    """Counted since the start, save the first four. Events are final ones, where not said."""

    connected: bool
    outbox: Literal["disk", "memory", "failing"]  # where events wait; failing: a disk that does not keep them
    waiting: int  # events not yet delivered
    unsaved: int  # of these, those not on disk, where they should be
    published: int  # events that the broker acknowledged
    dropped: int  # events that waited in vain
    sent_unsaved: int  # events that went out before they were on disk, as that failed or took too long
    provisional: int  # provisional events handed to the broker
    superseded: int  # provisional events that were not, mostly as something newer came
    denied: int  # messages that the broker's access rules refused
    reconnects: int
    rejected: int  # incoming messages that were not understood, or too many


class Publisher:
    """Publishes the events of one node and answers its requests, over a connection that it keeps.

        async with Publisher(settings.mqtt, address, node, password, outbox) as publisher:
            await publisher.first_connection()
            publisher.ready(info)
            publisher.publish(event)

    Leaving delivers what waits, for at most `flush_s`, and ends availability with `stopped`, or with `offline`
    when an error leads out. What then still waits stays in the file `outbox` for the next publisher, or is dropped
    and counted where that is None. To be used in one event loop.
    """

    def __init__(
        self,
        settings: Mqtt,
        address: Address,
        node: str,
        password: str | None = None,
        outbox: Path | None = None,
    ) -> None:
        self._settings = settings
        self._address = address
        self._topics = Topics(node)
        self._password = password
        self._protocol: ProtocolVersion | None = None  # not known yet
        self._tls: ssl.SSLContext | None = None

        self._connected_at = math.inf  # of the event loop's time, where there is a connection
        self._info: Info | None = None
        self._predecessors: set[datetime] = set()  # programs of our name that had ended when we began, by their start
        bounds = Bounds(settings.queue_max, settings.queue_max_mb * 1_000_000, settings.queue_max_age_s)
        self._outbox = Outbox(bounds, outbox, settings.outbox_sync)
        self._latest: dict[str, EmotionEvent] = {}  # the last final event delivered, by stream
        self._behind: set[str] = set()  # streams whose state and label on the broker are not the latest
        self._last_word = "stopped"

        self._on_delivery: list[Callable[[EmotionEvent, Delivery], None]] = []
        self._on_said: Callable[[Said], None] | None = None
        self._responder = Responder(self._topics)
        self._requests: asyncio.Queue[Request] = asyncio.Queue(_WAITING_MAX)
        self._responses: asyncio.Queue[Outgoing] = asyncio.Queue(_WAITING_MAX)

        self._keeping: asyncio.Task[None]
        self._connected_once = asyncio.Event()
        self._may_begin = asyncio.Event()
        self._connected = False
        self._published = 0
        self._provisional = 0
        self._denied = 0
        self._reconnects = 0
        self._rejected = 0

    async def __aenter__(self) -> Self:
        """Raises OutboxError when the file for undelivered events cannot be used."""
        await self._outbox.__aenter__()
        self._keeping = asyncio.create_task(self._run(), name="mqtt")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if isinstance(exc, Exception):
            self._last_word = "offline"
        self._outbox.close()
        self._may_begin.set()
        await asyncio.wait({self._keeping}, timeout=self._settings.flush_s)
        self._outbox.give_up()
        await asyncio.wait({self._keeping}, timeout=_LAST_WORD_S)
        self._keeping.cancel()
        (outcome,) = await asyncio.gather(self._keeping, return_exceptions=True)
        await self._outbox.__aexit__(exc_type, exc, tb)
        if isinstance(outcome, Exception) and exc is None:
            raise outcome

    def ready(self, info: Info) -> None:
        """Say `online`, now and after every reconnection: from here on events are published and requests met."""
        self._info = info
        self._may_begin.set()

    def publish(self, event: EmotionEvent) -> None:
        """Hand over an event. Never waits: when too many wait for the broker, the oldest is dropped and counted.

        Final events arrive at least once, in order; of provisional ones what a newer event replaces is left out.
        """
        self._outbox.put(event)

    def on_request(self, verb: str, handler: Handler) -> None:
        """Meet `telme/<node>/request/<verb>` with `handler`. Requests are met one after the other."""
        self._responder.register(verb, handler)

    def on_said(self, callback: Callable[[Said], None]) -> None:
        """Hand what arrives on `telme/<node>/dialogue/add` to `callback`, which must not block.

        It raises RequestError for what it cannot take.
        """
        self._on_said = callback

    def on_delivery(self, callback: Callable[[EmotionEvent, Delivery], None]) -> None:
        """Tell `callback`, which must not block, of each final event of this program that the broker acknowledges.

        Not of those that an earlier program left: its clock, by which their speech ended, went with it.
        """
        self._on_delivery.append(callback)

    async def first_connection(self) -> None:
        """Wait until the broker accepts us. Raises BrokerError when it cannot be reached or refuses."""
        connected = asyncio.create_task(self._connected_once.wait())
        try:
            await asyncio.wait({connected, self._keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            connected.cancel()
        if self._keeping.done():
            self._keeping.result()

    async def failure(self) -> NoReturn:
        """Wait for ever, or raise BrokerError once the broker refuses us for good."""
        await asyncio.shield(self._keeping)
        raise asyncio.CancelledError  # the publisher was left

    def status(self) -> PublisherStatus:
        return PublisherStatus(
            connected=self._connected,
            outbox=self._outbox.storage,
            waiting=len(self._outbox),
            unsaved=self._outbox.unsaved,
            published=self._published,
            dropped=self._outbox.dropped,
            sent_unsaved=self._outbox.sent_unsaved,
            provisional=self._provisional,
            superseded=self._outbox.superseded,
            denied=self._denied,
            reconnects=self._reconnects,
            rejected=self._rejected + self._responder.rejected,
        )

    async def _run(self) -> None:
        if self._address.tls:
            self._tls = await asyncio.to_thread(tls_context, self._settings)
        answering = asyncio.create_task(self._answer_requests(), name="mqtt-requests")
        try:
            await self._keep_connected()
        finally:
            answering.cancel()

    async def _keep_connected(self) -> None:
        """Connect again and again, until the last word is said."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            self._connected_at = math.inf
            try:
                if await self._connect_and_serve():
                    return
            except MqttConnectError as refusal:
                code = reason_code(refusal.rc)
                if code in _REFUSED_FOR_GOOD:
                    raise BrokerError(self._refused(_REFUSED_FOR_GOOD[code])) from None
                if code == UNSUPPORTED_PROTOCOL:
                    self._protocol = None
                self._failed_to_connect(str(refusal))
            except CertificateError as refusal:
                raise BrokerError(
                    f"the broker at {self._address} refuses the certificate of this program ({refusal}): "
                    "set mqtt.cert_file and mqtt.key_file to a pair that it trusts"
                ) from None
            except aiomqtt.MqttError as error:
                self._failed_to_connect(str(error))
            except TimeoutError:
                self._failed_to_connect(f"no answer within {self._settings.connect_timeout_s:g} s")
            if loop.time() - self._connected_at > _STEADY_S:
                failures = 0
            await asyncio.sleep(_full_jitter_s(failures))
            failures += 1

    def _failed_to_connect(self, reason: str) -> None:
        """Raises BrokerError at the start, where somebody watches; later only time helps."""
        if not self._connected_once.is_set():
            check = "mqtt.ca_file" if self._address.tls else "whether it wants mqtts://"
            raise BrokerError(
                f"cannot connect to the broker at {self._address} ({reason}): check the address, {check} "
                "and whether the broker runs, or try --broker embedded"
            ) from None
        log.warning("cannot connect to %s: %s; trying again", self._address, reason)

    def _refused(self, what: str) -> str:
        return (
            f"the broker at {self._address} refuses {what}: the user belongs in the address (mqtt://user@host), "
            "the password in TELME_MQTT_PASSWORD or mqtt.password_file"
        )

    async def _connect_and_serve(self) -> bool:
        """One connection from its beginning to its end. Returns whether the last word was said over it."""
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                if self._protocol is None:
                    self._protocol = await self._negotiate()
                client = await stack.enter_async_context(self._client(self._protocol))
            if self._connected_once.is_set():
                self._reconnects += 1
            self._connected = True
            self._connected_at = asyncio.get_running_loop().time()
            self._connected_once.set()
            log.info("connected to %s (MQTT %s)", self._address, _NAMES[self._protocol])
            ended = False
            try:
                ended = await self._serve(client)
            finally:
                self._connected = False
                if not ended:
                    # Upon a goodbye the broker would forget the last will, and what it retains would say `online`.
                    client.break_off()
            return ended

    async def _negotiate(self) -> ProtocolVersion:
        return await negotiate(
            self._address.host, self._address.port, timeout=self._settings.connect_timeout_s, tls_context=self._tls
        )

    def _client(self, protocol: ProtocolVersion) -> Client:
        connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        connect.MaximumPacketSize = _PACKET_MAX
        return Client(
            self._address.host,
            self._address.port,
            protocol=protocol,
            timeout=self._settings.connect_timeout_s,
            identifier=f"telme-{self._topics.node}",
            username=self._address.user,
            password=self._password,
            keepalive=self._settings.keep_alive_s,
            tls_context=self._tls,
            will=aiomqtt.Will(self._topics.availability, "offline", qos=1, retain=True),
            properties=connect if protocol is ProtocolVersion.V5 else None,
        )

    async def _serve(self, client: Client) -> bool:
        loop = asyncio.get_running_loop()
        began = loop.time()
        ended = False
        errors: list[Exception] = []
        try:
            # A publish alone learns of a lost connection by its time-out; receiving learns at once, and its
            # error ends the group, so that what was not acknowledged goes out over the next connection.
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(self._receive(client)), tasks.create_task(self._send_responses(client))]
                await self._deliver(client)
                ended = True
                for task in others:
                    task.cancel()
        except* (aiomqtt.MqttError, BrokerError) as group:
            errors.extend(group.exceptions)
        if errors:
            self._connection_lost(errors, loop.time() - began)
        return ended

    def _connection_lost(self, errors: Sequence[Exception], held_s: float) -> None:
        for error in errors:
            if isinstance(error, BrokerError):
                raise error
        causes = [error.__cause__ for error in errors]
        if any(isinstance(cause, MqttCodeError) and reason_code(cause.rc) == SESSION_TAKEN_OVER for cause in causes):
            raise TakenOverError(self._taken_over())
        log.warning("lost the connection to %s: %s", self._address, causes[0] or errors[0])
        if held_s < _STEADY_S:
            # Brokers keep one connection of a name and close the older one, many without telling why.
            log.warning("it held %.1f s only: does another program use the node name %r?", held_s, self._topics.node)

    def _taken_over(self) -> str:
        """To take the name back would begin a quarrel without end."""
        return (
            f"another program that was started later uses the node name {self._topics.node!r} at {self._address}: "
            "end it, or give each program its own --node"
        )

    async def _deliver(self, client: Client) -> None:
        """Say who is there, deliver events in order, and say the last word."""
        await self._may_begin.wait()
        if self._info is not None:
            await self._say_hello(client, self._info)
        while (event := await self._outbox.first()) is not None:
            if event.phase == "final":
                await self._send_final(client, event)
            else:
                await self._send_provisional(client, event)
        await self._send(client, self._availability(self._last_word))

    async def _say_hello(self, client: Client, info: Info) -> None:
        heard = [self._topics.dialogue_add, self._topics.requests, self._topics.info]
        discovery = self._discovery()
        if discovery is not None:
            heard.append(home_assistant.STATUS)
        granted = await client.subscribe([(topic, 1) for topic in heard])
        if any(getattr(code, "value", code) >= 128 for code in granted):
            log.warning("the broker does not let us hear all of %s: %s", ", ".join(heard), granted)
        await self._send(client, Outgoing(self._topics.info, info.model_dump_json(), retain=True))
        if discovery is not None:
            await self._send(client, discovery)
        for event in self._latest.values():
            await self._send_state(client, event)
        await self._send(client, self._availability("online"))

    def _discovery(self) -> Outgoing | None:
        """What introduces us to Home Assistant; None where nobody asked for that."""
        if self._settings.home_assistant is None or self._info is None:
            return None
        return home_assistant.discovery(self._settings.home_assistant, self._topics.node, self._info)

    def _availability(self, word: str) -> Outgoing:
        return Outgoing(self._topics.availability, word, retain=True, content_type=TEXT)

    async def _send_provisional(self, client: Client, event: EmotionEvent) -> None:
        """Once, without acknowledgement: the next event of the utterance says more."""
        self._provisional += 1
        topic = self._topics.provisional(event.stream)
        await self._send(client, Outgoing(topic, event.to_json(), qos=0, expiry_s=self._settings.expiry_s))

    async def _send_final(self, client: Client, event: EmotionEvent) -> None:
        topic = self._topics.utterance(event.stream)
        accepted = await self._send(client, Outgoing(topic, event.to_json(), expiry_s=self._settings.expiry_s))
        if not self._outbox.overtaken:
            self._latest[event.stream] = event
            self._behind.add(event.stream)
        delivery = self._outbox.delivered()
        if accepted:
            self._published += 1
            self._tell_delivery(event, delivery)
        if len(self._outbox) == 0:
            # After an outage the state jumps to the last event: robots do not act out what is long over.
            for stream in sorted(self._behind):
                await self._send_state(client, self._latest[stream])
                await self._send_plain(client, self._latest[stream])
                self._behind.discard(stream)

    def _tell_delivery(self, event: EmotionEvent, delivery: Delivery | None) -> None:
        if delivery is not None:
            for callback in self._on_delivery:
                callback(event, delivery)

    async def _send_state(self, client: Client, event: EmotionEvent) -> None:
        await self._send(client, Outgoing(self._topics.state(event.stream), event.to_json(), retain=True))

    async def _send_plain(self, client: Client, event: EmotionEvent) -> None:
        """Plain values are not retained: they carry no time, and an old one must not look new."""
        for topic, value in (
            (self._topics.label(event.stream), event.emotion),
            (self._topics.confidence(event.stream), f"{event.confidence:.3f}"),
            (self._topics.valence(event.stream), f"{event.valence:.3f}"),
            (self._topics.arousal(event.stream), f"{event.arousal:.3f}"),
        ):
            message = Outgoing(topic, value, qos=0, content_type=TEXT, expiry_s=self._settings.expiry_s)
            await self._send(client, message)

    async def _send_responses(self, client: Client) -> None:
        while True:
            await self._send(client, await self._responses.get())

    async def _send(self, client: Client, message: Outgoing) -> bool:
        """Returns False when the broker's access rules refuse the message: it would refuse it again."""
        try:
            await client.send(message)
        except DeniedError as denied:
            self._denied += 1
            log.warning("%s", denied)
            return False
        return True

    async def _receive(self, client: Client) -> None:
        async for message in client.incoming():
            payload = message.payload if isinstance(message.payload, bytes) else b""
            topic = message.topic.value
            if topic == self._topics.info:
                self._check_alone(payload)
            elif topic == home_assistant.STATUS:
                self._greet_home_assistant(payload)
            elif message.retain:
                self._reject(topic, "retained messages are not acted upon: they are old")
            elif topic == self._topics.dialogue_add:
                self._take_said(payload)
            elif (verb := self._topics.verb(topic)) is not None:
                self._take_request(_request(verb, payload, message.properties))

    def _check_alone(self, payload: bytes) -> None:
        """Raises TakenOverError when a program that was started later used our name while we were not connected.

        Not at the first connection: what is retained then is of our predecessor, whose clock may have been ahead. A
        broker that starts again may show it once more.
        """
        started = started_at(payload)
        if started is None or self._info is None:
            return
        if not self._reconnects:
            self._predecessors.add(started)
        elif started > self._info.started_at and started not in self._predecessors:
            raise TakenOverError(self._taken_over())

    def _greet_home_assistant(self, status: bytes) -> None:
        """A Home Assistant that has just started may use a broker that forgot what was retained."""
        discovery = self._discovery()
        if status == b"online" and discovery is not None:
            try:
                self._responses.put_nowait(discovery)
            except asyncio.QueueFull:
                self._reject(home_assistant.STATUS, f"{_WAITING_MAX} responses wait already")

    def _take_said(self, payload: bytes) -> None:
        if len(payload) > MAX_BYTES:
            self._reject(self._topics.dialogue_add, f"{len(payload)} bytes are more than {MAX_BYTES}")
            return
        try:
            said = Said.model_validate_json(payload)
        except ValidationError as error:
            self._reject(self._topics.dialogue_add, first_complaint(error))
            return
        if self._on_said is None:
            return
        try:
            self._on_said(said)
        except RequestError as refusal:
            self._reject(self._topics.dialogue_add, str(refusal))

    def _take_request(self, request: Request) -> None:
        try:
            self._requests.put_nowait(request)
        except asyncio.QueueFull:
            self._reject(request.verb, f"{_WAITING_MAX} requests wait already")

    def _reject(self, topic: str, reason: str) -> None:
        self._rejected += 1
        log.warning("ignored a message on %s: %s", topic, reason)

    async def _answer_requests(self) -> None:
        """Not tied to a connection: what a request began is not broken off when the broker goes away.

        Where responses wait, the next request does too, so that none is met of which nobody hears.
        """
        while True:
            await self._responses.put(await self._responder.answer(await self._requests.get()))


def _request(verb: str, payload: bytes, properties: Properties | None) -> Request:
    return Request(
        verb=verb,
        payload=payload,
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
    )


def _full_jitter_s(failures: int) -> float:
    """A random pause up to a doubling bound, so that many clients do not return at once.

    "Full jitter" of M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    bound = min(_PAUSE_MAX_S, _PAUSE_FIRST_S * 2.0 ** min(failures, 30))
    return random.uniform(0.0, bound)  # noqa: S311 - jitter is no secret
