"""A process ends when it is told to, also where a thread hangs that nothing can stop."""

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from brokers import Mosquitto, Subscriber
from streams import ACTED, ASR, PATIENCE_S, Running, environment

from streamer import cli

HANGS_S = 600.0
PROMPT_S = 30.0  # a fraction of what hangs, and of the five minutes that an event loop waits for threads

LOADING = "models.Transcriber.load = hang"
RECOGNITION = "transcriber.Transcriber.transcribe = hang"


@contextmanager
def hanging(folder: Path, what: str, *flags: str) -> Iterator[Running]:
    """A stream of which one part hangs."""
    program = f"""
        import sys, time
        from streamer import command, models, transcriber
        def hang(*_):
            print("hangs", file=sys.stderr, flush=True)
            time.sleep({HANGS_S})
        {what}
        sys.exit(command.main())
    """
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), "--media", ACTED, "--json", "--asr", ASR, *flags],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=environment(),
        )
    try:
        stream = Running(process, log)
        stream.wait_for_log("hangs")
        yield stream
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_download_that_hangs_is_not_waited_for(number: signal.Signals, tmp_path: Path) -> None:
    with hanging(tmp_path, LOADING) as stream:
        began = time.monotonic()
        assert stream.stop(number) == 0
        assert time.monotonic() - began < PROMPT_S
        assert "stopped before all was ready" in stream.log


def test_recognition_that_hangs_is_given_up_in_time(tmp_path: Path) -> None:
    with hanging(tmp_path, RECOGNITION, "--set", "stop_s=0.5") as stream:
        began = time.monotonic()
        assert stream.stop() == 0
        assert time.monotonic() - began < PROMPT_S
        assert "gave up the utterances in hand" in stream.log


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with hanging(tmp_path, RECOGNITION, "--set", "stop_s=300") as stream:
        stream.process.send_signal(signal.SIGINT)
        stream.wait_for_log("finishing the utterance in hand")
        began = time.monotonic()
        assert stream.stop(signal.SIGINT) == 130
        assert time.monotonic() - began < PROMPT_S
        assert "Traceback" not in stream.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_hangs_when_all_is_done(number: signal.Signals, tmp_path: Path) -> None:
    with hanging(tmp_path, "import atexit; atexit.register(hang)", "--fast") as stream:
        assert "stream ended" in stream.log
        assert stream.stop(number) == 130
        assert "Traceback" not in stream.log


@pytest.mark.parametrize("flags", [[], ["--mqtt", "mqtt://127.0.0.1:1"]])
def test_a_program_that_embeds_a_stream_has_its_signals_back(flags: list[str]) -> None:
    def handle(*_: object) -> None:
        raise AssertionError

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        status = cli.main(["--media", str(ACTED), "--fast", "--json", "--asr", "none", *flags])
        assert status == (2 if flags else 0)
        assert {signal.getsignal(number) for number in before} == {handle}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def test_who_ends_at_once_is_offline(mosquitto: Mosquitto, tmp_path: Path) -> None:
    flags = ("--set", "stop_s=300", "--mqtt", mosquitto.url)
    with Subscriber(mosquitto.port, "telme/+/availability") as subscriber:
        with hanging(tmp_path, RECOGNITION, *flags) as stream:
            await subscriber.wait_for("/availability")
            stream.process.send_signal(signal.SIGINT)
            stream.wait_for_log("finishing the utterance in hand")
            assert stream.stop(signal.SIGINT) == 130
        await subscriber.wait_for("/availability", 2)
    assert [heard.payload for heard in subscriber.heard] == ["online", "offline"]
