"""One connection to a broker: aiomqtt's client, and what it leaves out."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from typing import Any, Self

import aiomqtt
import paho.mqtt.client as paho
from aiomqtt import Message, ProtocolVersion
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.enums import LogLevel
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from streamer.mqtt.errors import DeniedError
from streamer.mqtt.message import Outgoing

UNSUPPORTED_PROTOCOL = 132
SESSION_TAKEN_OVER = 142

# What a broker's TLS says of a client's certificate, as OpenSSL spells it.
_CERTIFICATE_ALERT = re.compile(r"alert (.*certificate|unknown ca|decrypt error|access denied)")


class CertificateError(aiomqtt.MqttError):
    """The broker does not accept our certificate, or misses one."""


class Client(aiomqtt.Client):
    """Serves one connection: a client used again would replay messages on which its predecessor broke.

    It reads the reason codes of acknowledgements, learns why a connection ends before the broker has answered, and
    can leave without a goodbye. aiomqtt does none of it, so this needs its private parts: `_client`, the paho client
    inside, the callbacks `_on_publish` and `_on_disconnect`, `_connected`, `_disconnected` and `_queue`.
    """

    def __init__(self, hostname: str, port: int, *, protocol: ProtocolVersion, timeout: float, **options: Any) -> None:
        """`timeout`: seconds to wait for any answer of the broker; `options` are those of aiomqtt.Client."""
        # Without TCP_NODELAY an event that follows small messages waits 40 ms for the broker's delayed TCP ACK.
        no_delay = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(hostname, port, protocol=protocol, timeout=timeout, socket_options=[no_delay], **options)
        self._client.connect_timeout = timeout
        self._client.on_log = self._on_log
        self._speaks_5 = protocol is ProtocolVersion.V5
        self._sending = asyncio.Lock()
        self._refusal: ReasonCode | None = None
        self._fault = "it closes the connection without an answer"

    async def __aenter__(self) -> Self:
        """Raises CertificateError, MqttConnectError for other refusals, and MqttError for what time may mend."""
        try:
            return await super().__aenter__()
        except BaseException as error:
            # Else the socket to a broker that never answers stays open. aiomqtt's callback trips over a future
            # that a cancelled wait leaves behind.
            self._client.on_disconnect = None
            self._client.disconnect()
            if isinstance(error, aiomqtt.MqttError) and _CERTIFICATE_ALERT.search(str(error)):
                raise CertificateError(str(error)) from None
            raise

    def break_off(self) -> None:
        """Close the connection without a goodbye, upon which the broker publishes the last will."""
        self._client._sock_close()
        if not self._disconnected.done():
            self._disconnected.set_result(None)

    async def incoming(self) -> AsyncIterator[Message]:
        """Messages as they arrive. Raises aiomqtt.MqttError when the connection ends.

        aiomqtt needs several turns of the event loop for each message, and reads further ones meanwhile. Whoever
        takes them without waiting gets all of these at once, so that few wait here, however fast they arrive.
        """
        async for message in self.messages:
            yield message
            while not self._queue.empty():
                yield self._queue.get_nowait()

    async def send(self, message: Outgoing) -> None:
        """Publish, and wait for the acknowledgement if QoS is 1. One message at a time.

        Raises DeniedError when an MQTT 5 broker says that it does not accept the message (MQTT 3.1.1 has no
        word for it), and aiomqtt.MqttError when there is no acknowledgement in time.
        """
        async with self._sending:
            self._refusal = None
            await self.publish(
                message.topic,
                message.payload,
                qos=message.qos,
                retain=message.retain,
                properties=message.properties() if self._speaks_5 else None,
            )
            if self._refusal is not None:
                raise DeniedError(f"the broker does not accept messages on {message.topic}: {self._refusal}")

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        if reason_code.is_failure:
            self._refusal = reason_code
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError(self._fault))
        else:
            super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_log(self, client: paho.Client, userdata: Any, level: int, text: str) -> None:
        """What breaks a connection, paho tells nobody else."""
        if level == LogLevel.MQTT_LOG_ERR:
            self._fault = text


async def negotiate(hostname: str, port: int, *, timeout: float, **options: Any) -> ProtocolVersion:
    """The newest protocol that a broker speaks: MQTT 5, or 3.1.1 where that is refused.

    Asked with a CONNECT that holds nothing: brokers that know only 3.1.1 read more of one as they must not
    (amqtt waits for bytes that never come). Other refusals than of the protocol are left to the real connection.
    `options` are those of aiomqtt.Client. Raises aiomqtt.MqttError when the broker cannot be reached.
    """
    try:
        async with Client(hostname, port, protocol=ProtocolVersion.V5, timeout=timeout, **options):
            return ProtocolVersion.V5
    except MqttConnectError as refusal:
        return ProtocolVersion.V311 if reason_code(refusal.rc) == UNSUPPORTED_PROTOCOL else ProtocolVersion.V5


def reason_code(code: int | ReasonCode | None) -> int | None:
    """The number of a reason; those that MQTT 3.1.1 gives to a CONNECT arrive translated to those of MQTT 5."""
    return code.value if isinstance(code, ReasonCode) else code
