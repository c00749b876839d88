"""How a process meets requests and takes what was said, for one of its streams or for all."""

from collections.abc import Callable, Mapping
from typing import Any

from streamer.mqtt.publisher import Publisher
from streamer.mqtt.said import Said
from streamer.streams import Streams
from streamer.supervision import Supervision


def answer_requests(
    publisher: Publisher, streams: Streams, supervision: Supervision, now: Callable[[str | None], Mapping[str, Any]]
) -> None:
    """From here on. now: the status of a stream, or of all."""

    async def pause(stream: str | None) -> None:
        for pipeline in streams.chosen(stream).values():
            pipeline.paused = True

    async def resume(stream: str | None) -> None:
        for pipeline in streams.chosen(stream).values():
            pipeline.paused = False

    async def reset_dialogue(stream: str | None) -> None:
        for pipeline in streams.chosen(stream).values():
            pipeline.reset_dialogue()

    async def report(stream: str | None) -> Mapping[str, Any]:
        return now(stream)

    def hear(said: Said) -> None:
        for pipeline in streams.chosen(said.stream).values():
            pipeline.hear(said.speaker, said.text)

    publisher.on_request("pause", pause)
    publisher.on_request("resume", resume)
    publisher.on_request("reset-dialogue", reset_dialogue)
    publisher.on_request("reload", supervision.answer_reload)
    publisher.on_request("status", report)
    publisher.on_said(hear)
