"""The streams of one process: run together, asked and told things one by one or all at once."""

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from streamer import logs
from streamer.health import Vitals
from streamer.json_lines import OutputError
from streamer.loop_lag import LoopLag
from streamer.mqtt.publisher import Publisher
from streamer.mqtt.requests import RequestError
from streamer.pipeline import Pipeline
from streamer.settings import StreamSettings
from streamer.transcriber import Transcriber

log = logging.getLogger(__name__)


class Streams:
    """Pipelines by the names of their streams, and what they share.

    publisher, transcriber: None where events are published nowhere, and where no speech recogniser is wanted.
    """

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        transcriber: Transcriber | None,
        publisher: Publisher | None,
        lag: LoopLag,
    ) -> None:
        self._pipelines = pipelines
        self._transcriber = transcriber
        self._publisher = publisher
        self._lag = lag

    async def run(self) -> None:
        """Runs until every stream has ended.

        A stream that fails leaves the others alone; its error is logged at once, and raised when they have ended.
        But where events cannot be written any more, all of them stop.
        """
        running = (self._run(name, pipeline) for name, pipeline in self._pipelines.items())
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            if outcome is not None:
                raise outcome

    def stop(self) -> None:
        """Listen no further, finish what was heard, and let `run` return."""
        for pipeline in self._pipelines.values():
            pipeline.stop()

    def status(self, stream: str | None = None) -> dict[str, Any]:
        """Everything that is counted, as the request `status` answers it: of one stream, or of all.

        What each of several streams counts stands under its name in the section `streams`.
        Raises RequestError where there is no stream of that name.
        """
        chosen = {name: pipeline.status() for name, pipeline in self.chosen(stream).items()}
        own = next(iter(chosen.values())) if len(chosen) == 1 else {"streams": chosen}
        p99_ms, max_ms = self._lag.p99_and_max_ms()
        return {
            **own,
            "transcription": dataclasses.asdict(self._transcriber.counters) if self._transcriber is not None else None,
            "mqtt": dataclasses.asdict(self._publisher.status()) if self._publisher is not None else None,
            "loop_lag_ms": {"p99": round(p99_ms, 1), "max": round(max_ms, 1)},
        }

    def chosen(self, stream: str | None) -> Mapping[str, Pipeline]:
        """The stream of a name, or all. Raises RequestError where there is no stream of that name."""
        if stream is None:
            return self._pipelines
        if stream not in self._pipelines:
            raise RequestError(f"no stream is called {stream!r}; there is: {', '.join(self._pipelines)}")
        return {stream: self._pipelines[stream]}

    def vitals(self) -> list[Vitals]:
        return [pipeline.vitals for pipeline in self._pipelines.values()]

    def reconfigure(self, settings: StreamSettings) -> None:
        """Go on with other values of those settings that are `reloadable`; the streams are the same."""
        for one in settings.each():
            self._pipelines[one.stream].reconfigure(one)
        if self._transcriber is not None:
            self._transcriber.reconfigure(settings.transcription)

    async def _run(self, name: str, pipeline: Pipeline) -> None:
        """In a task of its own."""
        if len(self._pipelines) > 1:
            logs.stream.set(name)
        try:
            await pipeline.run()
        except OutputError:
            self.stop()
            raise
        except Exception:
            if len(self._pipelines) > 1:
                log.exception("this stream failed; the others go on")
            raise
        if len(self._pipelines) > 1:
            log.info("this stream ended")
