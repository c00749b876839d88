"""Requests that arrive over MQTT, and their responses."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, StrictInt, StrictStr, ValidationError

from streamer.mqtt.message import Outgoing
from streamer.mqtt.topics import Topics

MAX_BYTES = 16 * 1024
_HANDLER_S = 10.0

log = logging.getLogger(__name__)

Handler = Callable[[str | None], Awaitable[Mapping[str, JsonValue] | None]]
"""Does what a verb asks for, for the stream of that name, or for all where there is None.

Its result becomes the response's `data`. Raises RequestError when it cannot.
"""


class RequestError(Exception):
    """A request that cannot be met; the message is one sentence for whoever asked."""


@dataclass(frozen=True)
class Request:
    """A request as it arrived. The last two are MQTT 5 properties."""

    verb: str
    payload: bytes
    response_topic: str | None = None
    correlation: bytes | None = None


class RequestName(BaseModel):
    """By what the requester knows its request; can be understood where the rest of the payload is not."""

    transaction: StrictStr | StrictInt | None = None


class RequestBody(RequestName):
    """The payload of a request; an empty payload is an empty object. Without a stream it is for all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stream: str | None = None


class Response(BaseModel):
    """The payload of a response. `transaction` repeats the request's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Literal["ok", "error"]
    data: dict[str, JsonValue] | None = None
    error: str | None = None
    transaction: StrictStr | StrictInt | None = None


class Responder:
    """Answers requests with what the handlers registered for their verbs return."""

    def __init__(self, topics: Topics) -> None:
        self.rejected = 0
        self._topics = topics
        self._handlers: dict[str, Handler] = {}

    def register(self, verb: str, handler: Handler) -> None:
        self._handlers[verb] = handler

    async def answer(self, request: Request) -> Outgoing:
        """The response to publish. Whatever is wrong with the request is said in it; nothing is raised."""
        response = await self._response(request)
        if response.error is not None:
            self.rejected += 1
            log.warning("request %r refused: %s", request.verb, response.error)
        return Outgoing(self._response_topic(request), response.model_dump_json(), correlation=request.correlation)

    async def _response(self, request: Request) -> Response:
        if len(request.payload) > MAX_BYTES:
            return _error(f"the request has {len(request.payload)} bytes, more than {MAX_BYTES}")
        try:
            body = RequestBody.model_validate_json(request.payload or b"{}")
        except ValidationError as error:
            return _error(f"the request is not understood: {first_complaint(error)}", _transaction(request.payload))
        handler = self._handlers.get(request.verb)
        if handler is None:
            known = ", ".join(sorted(self._handlers)) or "none"
            return _error(f"no request is called {request.verb!r}; known are: {known}", body.transaction)
        try:
            async with asyncio.timeout(_HANDLER_S):
                data = await handler(body.stream)
            return Response(status="ok", data=None if data is None else dict(data), transaction=body.transaction)
        except RequestError as refusal:
            return _error(str(refusal), body.transaction)
        except TimeoutError:
            return _error(f"{request.verb} took longer than {_HANDLER_S:g} s", body.transaction)
        except Exception:
            # A fault in one handler must not end the stream; the log keeps it.
            log.exception("request %r failed", request.verb)
            return _error(f"{request.verb} failed inside; the log of {self._topics.node} says why", body.transaction)

    def _response_topic(self, request: Request) -> str:
        """Where the requester wants the answer, unless that would overwrite or trigger something of this node."""
        own = self._topics.response(request.verb)
        wanted = request.response_topic
        if not wanted or set("+#\0") & set(wanted) or wanted.startswith("$"):
            return own
        if wanted.startswith(f"{self._topics.root}/") and not wanted.startswith(self._topics.response("")):
            return own
        return wanted


def first_complaint(error: ValidationError) -> str:
    """Where and why a payload is refused, without repeating the payload."""
    complaint = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in complaint["loc"])
    return f"{where}: {complaint['msg']}" if where else complaint["msg"]


def _transaction(payload: bytes) -> str | int | None:
    try:
        return RequestName.model_validate_json(payload).transaction
    except ValidationError:
        return None


def _error(sentence: str, transaction: str | int | None = None) -> Response:
    return Response(status="error", error=sentence, transaction=transaction)
