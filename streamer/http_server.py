"""A small HTTP server in threads of its own: for what machines ask, as metrics and health."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Self, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

CONNECTIONS_MAX = 32
SILENCE_S = 5.0  # a client that says nothing for so long loses its connection
POLL_S = 0.1  # how soon the server notices that it is to end


class HttpServerError(Exception):
    """An address at which nothing can be served; the message says why and what to change."""


class HttpServer:
    """Serves pages, by their paths, while its `async with` lasts. Entering raises HttpServerError.

    port: 0 takes a free one.
    pages: answer in a thread of the server.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, WSGIApplication]) -> None:
        self._host = host
        self._port = port
        self._pages = pages
        self._server: _Server
        self._thread: threading.Thread

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.to_thread(_listen, self._host, self._port)
        except OSError as error:
            raise HttpServerError(
                f"Metrics cannot be served at {self._host} port {self._port} ({error.strerror}): "
                "change output.metrics_port (0 takes a free one) or output.metrics_host."
            ) from error
        self._port = self._server.server_port
        self._server.set_app(self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="http", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()
        await asyncio.to_thread(self._thread.join)

    @property
    def url(self) -> str:
        """Without a path."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def _answer(self, request: WSGIEnvironment, respond: StartResponse) -> Iterable[bytes]:
        page = self._pages.get(request.get("PATH_INFO", ""))
        if page is not None and request.get("REQUEST_METHOD") == "HEAD":
            # The head of what GET would answer. The pages themselves know only GET.
            for _ in page({**request, "REQUEST_METHOD": "GET"}, respond):
                pass
            return ()
        if page is not None:
            return page(request, respond)
        return answer(respond, HTTPStatus.NOT_FOUND, "text/plain", f"here are {', '.join(self._pages)}\n")


def answer(respond: StartResponse, status: HTTPStatus, content_type: str, text: str) -> Iterable[bytes]:
    """A whole response, for a page to return."""
    body = text.encode()
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
    respond(f"{status.value} {status.phrase}", headers)
    return [body]


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Requests are no news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__(address, _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Too many at once are turned away."""
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a request broke off", exc_info=True)


def _listen(host: str, port: int) -> _Server:
    """Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return _Server((str(address[0]), int(address[1])), family)


def ask(loop: asyncio.AbstractEventLoop, question: Callable[[], Answer], patience_s: float) -> Answer:
    """What a function answers when an event loop calls it; for pages, which run in other threads.

    Raises TimeoutError when the loop does not come to it within `patience_s` seconds.
    """

    async def put() -> Answer:
        return question()

    asked = asyncio.run_coroutine_threadsafe(put(), loop)
    try:
        return asked.result(patience_s)
    except TimeoutError:
        asked.cancel()
        raise
