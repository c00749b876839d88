"""The live page: the events of one stream in a browser on this machine."""

import asyncio
import logging
import os
import socket
from types import TracebackType
from typing import TYPE_CHECKING, Self

from streamer.events import EmotionEvent

if TYPE_CHECKING:
    from streamer.viewer.page_server import PageServer

log = logging.getLogger(__name__)

_HOST = "127.0.0.1"


class PageError(Exception):
    """A live page that cannot be served; the message says why and what to run or change."""


class LivePage:
    """Serves the page on loopback, from a thread of its own, while its `async with` lasts.

    port: 0 takes a free one. Entering raises PageError.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: PageServer

    async def __aenter__(self) -> Self:
        try:
            from streamer.viewer.page_server import PageServer
        except ImportError as error:
            raise PageError(f'The live page needs {error.name}: run `pip install "telme-live[viewer]"`.') from error
        listening = _listen(self._port)
        self._port = listening.getsockname()[1]
        self._server = PageServer(listening)
        await asyncio.to_thread(self._server.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._server.stop)
        if self.dropped:
            log.info("browsers were too slow and had to reconnect", extra={"times": self.dropped})

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self._port}/"

    @property
    def dropped(self) -> int:
        """How often a browser fell so far behind that its connection was given up."""
        return self._server.feed.dropped

    def publish(self, event: EmotionEvent) -> None:
        """Show an event; returns at once."""
        self._server.publish(event.to_json(), keep=event.phase == "final")


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        raise PageError(
            f"The live page cannot use port {port} ({os.strerror(error.errno or 0)}): "
            "choose another with --viewer, or 0 for a free one."
        ) from error
