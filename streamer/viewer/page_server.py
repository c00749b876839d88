"""The web server behind the live page: one HTML file, and server-sent events. Needs the extra `viewer`."""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

PAGE = Path(__file__).with_name("page.html")

_RECENT = 50  # events that a browser gets when it connects
_BEHIND_MAX = 100  # events that may wait for one browser
_KEEP_ALIVE_S = 15.0
_STOP_S = 3.0
_HEADERS = {
    # The page loads nothing from elsewhere, and what was said is on no other site's page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Browser:
    """One connection: the messages that wait for it, and whether it is to end."""

    def __init__(self, messages: Iterable[str]) -> None:
        self.waiting: asyncio.Queue[str] = asyncio.Queue(_BEHIND_MAX)
        self.ended = asyncio.Event()
        for message in messages:
            self.waiting.put_nowait(message)


class Feed:
    """Messages to any number of browsers, as an ASGI application of server-sent events.

    Lives in one event loop. A browser that falls behind is disconnected and counted; it reconnects by itself and
    gets the recent messages again.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._recent: deque[str] = deque(maxlen=_RECENT)
        self._browsers: set[_Browser] = set()

    def publish(self, message: str, *, keep: bool) -> None:
        """Send a message of one line; `keep` it for browsers that come later."""
        if keep:
            self._recent.append(message)
        for browser in self._browsers:
            try:
                browser.waiting.put_nowait(message)
            except asyncio.QueueFull:
                if not browser.ended.is_set():
                    self.dropped += 1
                browser.ended.set()

    def close(self) -> None:
        """End all connections."""
        for browser in self._browsers:
            browser.ended.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        browser = _Browser(self._recent)
        self._browsers.add(browser)
        # Sending to a browser that does not read waits for ever, so it must not be what is waited for.
        tasks = [
            asyncio.create_task(_send_all(browser.waiting, send)),
            asyncio.create_task(_disconnected(receive)),
            asyncio.create_task(browser.ended.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._browsers.discard(browser)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _send_all(messages: asyncio.Queue[str], send: Send) -> None:
    await _send(send, "retry: 1000\n\n")
    while True:
        try:
            async with asyncio.timeout(_KEEP_ALIVE_S):
                message = await messages.get()
        except TimeoutError:
            await _send(send, ": still here\n\n")
        else:
            await _send(send, f"data: {message}\n\n")


async def _send(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class PageServer:
    """The server in a thread with an event loop of its own, so that browsers delay nobody."""

    def __init__(self, listening: socket.socket) -> None:
        self.feed = Feed()
        self._listening = listening
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="live-page", daemon=True)
        # A browser that is cut off in the middle of a response is no error worth a line.
        config = uvicorn.Config(_application(self.feed), log_level="critical", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Returns when browsers can connect."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Ends all connections, within a few seconds."""
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join(_STOP_S)

    def publish(self, message: str, *, keep: bool) -> None:
        """Send a message of one line to all browsers; `keep` it for later ones. Returns at once. From any thread."""
        self._loop.call_soon_threadsafe(lambda: self.feed.publish(message, keep=keep))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        with self._listening:
            await self._server.serve(sockets=[self._listening])

    def _end(self) -> None:
        self._server.should_exit = True
        self.feed.close()


def _application(feed: Feed) -> Starlette:
    async def page(request: Request) -> FileResponse:
        return FileResponse(PAGE, media_type="text/html", headers=_HEADERS)

    # A foreign site whose name is made to point to this machine is refused by the name.
    local = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=[Route("/", page), Route("/events", feed)], middleware=[local])
