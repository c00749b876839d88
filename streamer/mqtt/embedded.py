"""A broker inside this program, for trying things out on one machine."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType

from streamer.mqtt.errors import BrokerError

HOST = "127.0.0.1"
PACKET_BYTES_MAX = 256 * 1024  # an event has some 2 kB
CONNECT_S = 10.0  # who connects has so long to say who it is
_STOP_S = 3.0
_LISTENER = "default"

log = logging.getLogger(__name__)


class EmbeddedBroker:
    """An MQTT 3.1.1 broker on loopback, without passwords, that forgets everything when it ends.

        async with EmbeddedBroker(port=0) as broker:
            print(broker.url)

    It has a thread and an event loop of its own: what it does for its clients holds nobody else up. The socket
    is ours and amqtt gets each connection handed in, so the port is known, and connections, the size of packets and
    the time to introduce oneself are limited here (amqtt knows no such limits, or lets clients above them wait).
    """

    def __init__(self, port: int = 1883, *, connections_max: int = 100) -> None:
        self._port = port
        self._connections_max = connections_max
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="embedded-broker", daemon=True)

    @property
    def url(self) -> str:
        return f"mqtt://{HOST}:{self._port}"

    async def __aenter__(self) -> Self:
        """Raises BrokerError when the port cannot be had."""
        self._socket = _listen(self._port)
        self._port = self._socket.getsockname()[1]
        self._thread.start()
        await asyncio.wrap_future(self._started)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join, _STOP_S)
        if self._thread.is_alive():
            log.warning("the embedded broker did not end within %g s", _STOP_S)

    def _run(self) -> None:
        # amqtt warns of every client that tries MQTT 5 first, as ours does, and tells each step of each session.
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._started.done():
                log.exception("the embedded broker failed")
            else:
                self._started.set_exception(BrokerError(f"the embedded broker does not start: {error}"))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        config = BrokerConfig(
            listeners={_LISTENER: ListenerConfig(type=ListenerType.EXTERNAL)},
            plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        )
        self._broker = Broker(config)
        await self._broker.start()
        server = await asyncio.start_server(self._connected, sock=self._socket)
        self._started.set_result(None)
        await self._stop.wait()
        server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._broker.shutdown(), _STOP_S / 2)
        await self._close_connections()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._connections_max:
            log.warning("the embedded broker turned a client away: %d are connected", len(self._connections))
            writer.close()
            return
        connection = asyncio.create_task(self._talk(reader, writer))
        self._connections[connection] = writer
        connection.add_done_callback(self._connections.pop)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            bounded = _BoundedReader(reader)
            noticing = _NoticingWriter(writer, bounded.greeted)
            await self._broker.external_connected(bounded, noticing, _LISTENER)
        except Exception as error:
            # amqtt lets some malformed packets through as errors of any kind; they cost their sender the connection.
            log.warning("the embedded broker closed a connection: %r", error)
        finally:
            writer.close()

    async def _close_connections(self) -> None:
        """Those that shutting down leaves are no sessions yet: clients that connected and said nothing."""
        for writer in self._connections.values():
            writer.close()
        if self._connections:
            await asyncio.wait(set(self._connections), timeout=_STOP_S / 2)


class _BoundedReader(StreamReaderAdapter):  # type: ignore[misc]  # amqtt is untyped for us
    """Ends a connection, as if its client had gone, at a packet that is too large or a beginning that is too slow."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._connect_until: float | None = asyncio.get_running_loop().time() + CONNECT_S

    def greeted(self) -> None:
        """The broker has answered: the client has said who it is."""
        self._connect_until = None

    async def read(self, n: int = -1) -> bytes:
        if n > PACKET_BYTES_MAX:
            log.warning("the embedded broker closed a connection: a packet of more than %d bytes", PACKET_BYTES_MAX)
            raise ConnectionResetError
        try:
            async with asyncio.timeout_at(self._connect_until):
                read: bytes = await super().read(n)
        except TimeoutError:
            log.warning("the embedded broker closed a connection that did not say who it is for %g s", CONNECT_S)
            raise ConnectionResetError from None
        return read


class _NoticingWriter(StreamWriterAdapter):  # type: ignore[misc]  # likewise
    """Calls a function whenever the broker writes."""

    def __init__(self, writer: asyncio.StreamWriter, on_write: Callable[[], None]) -> None:
        super().__init__(writer)
        self._on_write = on_write

    def write(self, data: bytes) -> None:
        self._on_write()
        super().write(data)


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise BrokerError(
            f"the embedded broker cannot listen on port {port} of {HOST} ({error.strerror}): "
            "choose another mqtt.broker_port, or 0 for a free one"
        ) from None
