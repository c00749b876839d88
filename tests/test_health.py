"""The verdict on health, and the page that serves it."""

import asyncio
import json
import logging
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from streamer import health_page, settings
from streamer.health import Health, Verdict, Vitals
from streamer.health_page import HealthPage
from streamer.http_server import HttpServer

STALL_S = 2.0
LIMITS = settings.Health(recognition_s=10)


class World:
    """What is watched, and its clock."""

    def __init__(self, limits: settings.Health = LIMITS) -> None:
        self.now = 100.0
        self.vitals = Vitals("main", heard_s=0.0, finished=0, waits=False)
        self.lacks: list[str] = []
        self.health = Health(limits, STALL_S, clock=lambda: self.now)

    def begin(self) -> None:
        self.health.begin(lambda: [self.vitals], lambda: self.lacks)

    def after(self, seconds: float, **vitals: Any) -> Verdict:
        self.now += seconds
        self.vitals = Vitals(**{**vars(self.vitals), **vitals})
        return self.health.check()


def begun(limits: settings.Health = LIMITS) -> World:
    world = World(limits)
    world.begin()
    world.health.check()
    return world


def test_who_has_not_begun_is_starting_and_not_live() -> None:
    verdict = World().health.check()
    assert (verdict.state, verdict.live) == ("starting", False)


def test_a_stream_that_hears_and_has_nothing_to_do_is_well() -> None:
    world = begun()
    for second in range(1, 100):
        assert world.after(1, heard_s=float(second)) == Verdict("ok")


def test_a_source_whose_sound_comes_in_segments_is_not_away_between_them() -> None:
    world = begun()
    assert world.after(5 * STALL_S, patience_s=10 * STALL_S).state == "ok"
    assert world.after(6 * STALL_S).state == "degraded"


def test_pictures_that_ended_in_an_error_degrade() -> None:
    verdict = begun().after(1, heard_s=1.0, blind=True)
    assert (verdict.state, verdict.live) == ("degraded", True)
    assert verdict.reasons == ("the pictures of main have ended in an error, which the log tells",)


def test_a_source_that_is_away_degrades_and_is_looked_for_without_end() -> None:
    world = begun()
    assert world.after(STALL_S).state == "ok"
    verdict = world.after(5)
    assert (verdict.state, verdict.live) == ("degraded", True)
    assert verdict.reasons == ("the source of main has been away for 7 s",)
    assert world.after(86_400).live
    assert world.after(1, heard_s=0.02).state == "ok"


def test_a_source_that_is_away_too_long_calls_for_a_restart_where_that_is_wanted() -> None:
    world = begun(settings.Health(source_s=30))
    assert world.after(30).state == "degraded"
    assert world.after(1) == Verdict("failed", ("the source of main has been away for 31 s",))
    assert world.after(1, heard_s=0.02).state == "ok"


def test_a_file_is_never_away() -> None:
    world = begun(settings.Health(source_s=5))
    assert world.after(3600, heard_s=None).state == "ok"


def test_recognition_that_finishes_nothing_though_it_has_work_is_stuck() -> None:
    world = begun()
    world.after(1, heard_s=None, waits=True)
    assert world.after(10).state == "ok"
    verdict = world.after(1)
    assert verdict == Verdict("failed", ("recognition of main has finished nothing for 11 s",))
    assert world.after(1, finished=1).state == "ok"
    assert world.after(9).state == "ok"
    assert world.after(60, waits=False).state == "ok"


def test_work_that_comes_after_a_long_silence_has_its_time() -> None:
    world = begun()
    world.after(3600, heard_s=None)
    assert world.after(1, waits=True).state == "ok"
    assert world.after(9).state == "ok"


def test_what_else_is_missing_degrades_and_stands_behind_what_is_worse() -> None:
    world = begun()
    world.lacks = ["the broker is away; 3 events wait"]
    assert world.after(1, heard_s=None) == Verdict("degraded", ("the broker is away; 3 events wait",))
    world.after(1, waits=True)
    assert world.after(11).reasons == (
        "recognition of main has finished nothing for 11 s",
        "the broker is away; 3 events wait",
    )


def test_other_limits_count_at_once() -> None:
    world = begun()
    world.after(1, heard_s=None, waits=True)
    assert world.after(11).state == "failed"
    world.health.reconfigure(settings.Health(recognition_s=60))
    assert world.after(1).state == "ok"


def test_a_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    world = begun()
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            world.after(5)
        world.after(1, heard_s=0.1)
    assert [record.getMessage() for record in caplog.records] == [
        "health: degraded; the source of main has been away for 5 s",
        "health: ok",
    ]


def fetch(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


async def test_the_page_says_200_while_live_and_503_else() -> None:
    world = World()
    async with HttpServer("127.0.0.1", 0, {"/healthz": HealthPage(world.health)}) as server:
        url = f"{server.url}/healthz"
        code, said = await asyncio.to_thread(fetch, url)
        assert (code, said["live"], said["state"]) == (503, False, "starting")
        world.begin()
        world.after(0)
        assert await asyncio.to_thread(fetch, url) == (200, {"live": True, "state": "ok", "reasons": []})
        world.now += 60
        assert (await asyncio.to_thread(fetch, url))[1]["state"] == "degraded"
        world.after(0, waits=True)
        world.now += 60
        assert (await asyncio.to_thread(fetch, url))[0] == 503


async def test_the_page_answers_for_a_loop_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_page, "ANSWER_S", 0.2)
    world = begun()
    async with HttpServer("127.0.0.1", 0, {"/healthz": HealthPage(world.health)}) as server:
        asking = asyncio.create_task(asyncio.to_thread(fetch, f"{server.url}/healthz"))
        await asyncio.sleep(0)
        time.sleep(2)  # noqa: ASYNC251 - the loop stands still
        assert await asking == (
            503,
            {"live": False, "state": "failed", "reasons": ["the event loop did not answer for 0.2 s"]},
        )
