"""What a program shows on its own machine, and how it tells its end."""

from contextlib import AsyncExitStack

import pytest

from streamer import cli
from streamer.mqtt.errors import TakenOverError
from streamer.outputs import local_sinks
from streamer.settings import Output, StreamSettings


async def test_without_a_view_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    async with AsyncExitStack() as parts:
        sinks, tell = await local_sinks(StreamSettings(output=Output(view=False)), "compact", parts)
        tell("the end")
    assert sinks == []
    assert capsys.readouterr() == ("", "the end")


def test_who_was_replaced_ends_with_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def replaced(*_: object) -> None:
        raise TakenOverError("another program uses the node name")

    monkeypatch.setattr(cli, "_serve", replaced)
    assert cli.main(["--media", "any.wav"]) == 3
    assert capsys.readouterr().err.endswith("another program uses the node name\n")
