"""The server of metrics and health: its pages, its refusals, its limits."""

import asyncio
import http.client
import socket
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from http import HTTPStatus
from urllib.parse import urlsplit
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from streamer import http_server, settings
from streamer.health import Health
from streamer.health_page import HealthPage
from streamer.http_server import HttpServer, HttpServerError, answer
from streamer.metrics import Metrics


def hello(request: WSGIEnvironment, respond: StartResponse) -> Iterable[bytes]:
    return answer(respond, HTTPStatus.OK, "text/plain", "hello")


def broken(request: WSGIEnvironment, respond: StartResponse) -> Iterable[bytes]:
    raise RuntimeError("a page of ours fails")


def get(url: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read().decode()


async def fetched(server: HttpServer, path: str) -> tuple[int, str]:
    return await asyncio.to_thread(get, server.url, path)


async def test_pages_are_told_apart_and_others_are_not_there() -> None:
    async with HttpServer("127.0.0.1", 0, {"/hello": hello, "/other": broken}) as server:
        assert await fetched(server, "/hello") == (200, "hello")
        assert await fetched(server, "/hello?x=1") == (200, "hello")
        assert await fetched(server, "/") == (404, "here are /hello, /other\n")
        assert await fetched(server, "/../etc/passwd") == (404, "here are /hello, /other\n")
        assert (await fetched(server, "/other"))[0] == 500
        assert await fetched(server, "/hello") == (200, "hello")


def head(url: str, path: str) -> tuple[int, str | None, bytes]:
    """Status, content type, and all that follows the head."""
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
        response = b"".join(iter(lambda: connection.recv(65_536), b""))
    lines, _, rest = response.partition(b"\r\n\r\n")
    status, *fields = lines.decode().split("\r\n")
    content_type = next((field for field in fields if field.startswith("Content-Type: ")), None)
    return int(status.split()[1]), content_type, rest


async def test_who_wants_only_the_head_gets_it() -> None:
    pages = {"/healthz": HealthPage(Health(settings.Health(), stall_s=1.0)), "/metrics": Metrics().page}
    async with HttpServer("127.0.0.1", 0, pages) as server:
        status, content_type, rest = await asyncio.to_thread(head, server.url, "/metrics")
        assert (status, rest) == (200, b"")
        assert content_type is not None
        assert content_type.startswith("Content-Type: text/plain; version=")
        assert (await asyncio.to_thread(head, server.url, "/healthz"))[1:] == ("Content-Type: application/json", b"")


async def test_a_port_in_use_is_refused_with_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HttpServerError, match=rf"127\.0\.0\.1 port {port} .*in use.*output\.metrics_port"):
            async with HttpServer("127.0.0.1", port, {}):
                pass


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "256.1.1.1"])
async def test_an_address_that_is_not_ours_is_refused_with_a_sentence(host: str) -> None:
    with pytest.raises(HttpServerError, match=rf"{host} port 0 .*output\.metrics_host"):
        async with HttpServer(host, 0, {}):
            pass


async def test_the_port_is_free_again_afterwards() -> None:
    async with HttpServer("127.0.0.1", 0, {}) as server:
        port = int(server.url.split(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_it_listens_where_it_is_told_and_nowhere_else() -> None:
    async with HttpServer("127.0.0.1", 0, {}) as server:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", int(server.url.split(":")[2])), timeout=1)


async def test_clients_that_say_nothing_are_few_and_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CONNECTIONS_MAX", 3)
    monkeypatch.setattr(http_server._Handler, "timeout", 1.0)
    async with HttpServer("127.0.0.1", 0, {"/hello": hello}) as server:
        address = ("127.0.0.1", int(server.url.split(":")[2]))
        with ExitStack() as stack:
            silent = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(3)]
            await asyncio.sleep(0.3)
            one_too_many = stack.enter_context(socket.create_connection(address, timeout=20))
            assert await asyncio.to_thread(one_too_many.recv, 1) == b""
            for client in silent:
                assert await asyncio.to_thread(client.recv, 1) == b""
        assert await fetched(server, "/hello") == (200, "hello")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\xff\r\n\r\n",
        b"GET /hello HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 100_000,
        b"GET /hello\r\nx: " + b"y" * 99_999,
    ],
)
async def test_rubbish_costs_only_its_sender(request_bytes: bytes) -> None:
    async with HttpServer("127.0.0.1", 0, {"/hello": hello}) as server:
        address = ("127.0.0.1", int(server.url.split(":")[2]))
        # The server may have hung up before all was sent.
        with suppress(OSError), socket.create_connection(address, timeout=20) as client:
            client.sendall(request_bytes)
            client.shutdown(socket.SHUT_WR)
        assert await fetched(server, "/hello") == (200, "hello")
