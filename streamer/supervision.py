"""Looks after a running program: its health, settings that are read again, and a word to systemd."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from streamer import logs
from streamer.configuration import ConfigurationError
from streamer.health import Health
from streamer.mqtt.publisher import Publisher
from streamer.mqtt.requests import RequestError
from streamer.reload import Reloader, ReloadError
from streamer.settings import StreamSettings
from streamer.streams import Streams
from streamer.systemd import ServiceManager

log = logging.getLogger(__name__)

CHECK_S = 1.0

Read = Callable[[], StreamSettings]


class Supervision:
    """Watches the program while its `async with` lasts, and answers for its streams from `begin` on.

    read: reads the settings again, in all their layers; raises ConfigurationError.
    stopping: is set when the program is to end; set here when its terminal goes away.
    """

    def __init__(
        self,
        settings: StreamSettings,
        read: Read,
        stopping: asyncio.Event,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.health = Health(settings.health, max(one.sources.stall_ms for one in settings.each()) / 1000)
        self._settings = settings
        self._read = read
        self._stopping = stopping
        self._manager = ServiceManager(environment)
        self._reloader: Reloader | None = None
        self._reloading: set[asyncio.Task[None]] = set()
        self._has_terminal = sys.stderr.isatty()
        self._parts = ExitStack()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._parts.enter_context(self._manager)
        self._parts.callback(self._manager.stopping)
        watching = loop.create_task(self._watch(), name="supervision")
        self._parts.callback(watching.cancel)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        self._parts.callback(loop.remove_signal_handler, signal.SIGHUP)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()

    def begin(self, streams: Streams, publisher: Publisher | None) -> None:
        """The streams are about to run: say so, answer for them, and let settings be reloaded."""
        self.health.begin(streams.vitals, lambda: _lacks(publisher))
        self._reloader = Reloader(self._settings, self._read, [self._obey, streams.reconfigure])
        self._manager.ready()

    async def reload(self) -> tuple[str, ...]:
        """Go on with the settings as they are now; the keys that changed.

        Raises ConfigurationError or ReloadError where that cannot be; then nothing has changed.
        """
        if self._reloader is None:
            raise ReloadError("the program is still starting; reload its settings once it is ready.")
        self._manager.reloading()
        try:
            return await self._reloader.reload()
        finally:
            self._manager.ready()

    async def answer_reload(self, stream: str | None) -> Mapping[str, Any]:
        """The request `reload`. Raises RequestError."""
        if stream is not None:
            raise RequestError("settings are reloaded for all streams at once: leave out the stream")
        try:
            return {"changed": list(await self.reload())}
        except (ConfigurationError, ReloadError) as error:
            raise RequestError(str(error)) from error

    def _hang_up(self) -> None:
        if self._has_terminal and not sys.stderr.isatty():
            log.info("stopping: the terminal is gone")
            self._stopping.set()
            return
        task = asyncio.get_running_loop().create_task(self._reload_and_tell(), name="reload")
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload_and_tell(self) -> None:
        try:
            await self.reload()
        except (ConfigurationError, ReloadError) as error:
            log.error("settings are not reloaded: %s", error)

    def _obey(self, settings: StreamSettings) -> None:
        if settings.log != self._settings.log:
            logs.configure(settings.log.level, settings.log.format)
        self.health.reconfigure(settings.health)
        self._settings = settings

    async def _watch(self) -> None:
        """Check again and again; say `alive` as long as starting again would not help."""
        period_s = min(CHECK_S, self._manager.watchdog_s or CHECK_S)
        while not self._stopping.is_set():
            verdict = self.health.check()
            self._manager.status("; ".join((verdict.state, *verdict.reasons)))
            if verdict.state != "failed":
                self._manager.alive()
            with suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    await self._stopping.wait()
        self._manager.stopping()


def _lacks(publisher: Publisher | None) -> Sequence[str]:
    """What the publisher looks for by itself."""
    if publisher is None:
        return ()
    status = publisher.status()
    lacks = []
    if not status.connected:
        lacks.append(f"the broker is away; {status.waiting} events wait")
    if status.outbox == "failing":
        lacks.append("the outbox cannot write to its disk")
    return lacks
