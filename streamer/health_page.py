"""`/healthz`: the verdict on health, for supervisors that ask over HTTP."""

import asyncio
import json
from collections.abc import Iterable
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIEnvironment

from streamer.health import Health, Verdict
from streamer.http_server import answer, ask

ANSWER_S = 2.0


class HealthPage:
    """Answers 200 while the program is live, and 503 where it is starting or calls for a restart. Made in its loop."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._loop = asyncio.get_running_loop()

    def __call__(self, request: WSGIEnvironment, respond: StartResponse) -> Iterable[bytes]:
        verdict = self._verdict()
        status = HTTPStatus.OK if verdict.live else HTTPStatus.SERVICE_UNAVAILABLE
        return answer(respond, status, "application/json", json.dumps(verdict.as_json()) + "\n")

    def _verdict(self) -> Verdict:
        try:
            return ask(self._loop, self._health.check, ANSWER_S)
        except TimeoutError:
            return Verdict("failed", (f"the event loop did not answer for {ANSWER_S:g} s",))
