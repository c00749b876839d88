"""`telme-export` as a user calls it, for what it refuses."""

from pathlib import Path

import pytest

from export.cli import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The sentence with which the command ends."""
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("telme-export: ")
    assert "\n" not in message
    return message
