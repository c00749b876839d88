"""What was said and seen stays where it belongs: in events, and nowhere else."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from brokers import Mosquitto
from streams import ACTED, ASR, CONVERSATION, command, environment, expected, running


def words(clip: Path) -> set[str]:
    """Words of a clip that no log line has by chance."""
    said = " ".join(event["text"] for event in expected(clip)).lower()
    return {word for word in re.findall(r"[a-z]+", said) if len(word) > 3} - {"with", "again", "please", "this"}


@pytest.mark.parametrize("package", ["telme", "streamer.vad", "telme.runtime.onnxruntime", "export.parity"])
def test_no_library_tells_its_makers_anything(package: str, tmp_path: Path) -> None:
    """ONNX Runtime with telemetry begins a file with an identifier of the machine as soon as it is imported."""
    code = f"import {package}, onnxruntime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    own = {**environment(), "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    own = {name: value for name, value in own.items() if "TELEMETRY" not in name and not name.startswith("XDG_")}
    run = subprocess.run([sys.executable, "-B", "-c", code], env=own, capture_output=True, text=True, timeout=200)
    assert (run.returncode, run.stdout) == (0, "1\n"), run.stderr
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["mosquitto", "embedded"])
def test_no_log_at_any_level_quotes_what_was_said(broker: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    where = ("--mqtt", mosquitto.url) if broker == "mosquitto" else ("--broker", "embedded")
    flags = ("--media", ACTED, "--fast", "--log-level", "debug", "--set", "mqtt.broker_port=0", *where)
    with running(tmp_path, *flags) as stream:
        output, _ = stream.process.communicate(timeout=90)
    assert stream.process.returncode == 0, stream.log
    assert words(ACTED) & set(re.findall(r"[a-z]+", output.lower())), "the events do"
    assert not words(ACTED) & set(re.findall(r"[a-z]+", stream.log.lower()))
    assert len(stream.log) < 1_000_000, "no sound and no picture either"


@pytest.mark.slow
def test_a_log_quotes_where_that_is_asked_for(tmp_path: Path) -> None:
    with running(tmp_path, "--media", ACTED, "--fast", "--set", "log.transcripts=true", "--no-transcript") as stream:
        output, _ = stream.process.communicate(timeout=90)
    assert words(ACTED) & set(re.findall(r"[a-z]+", stream.log.lower()))
    assert not words(ACTED) & set(re.findall(r"[a-z]+", output.lower()))


@pytest.mark.slow
async def test_a_run_leaves_no_file_but_the_outbox(mosquitto: Mosquitto, tmp_path: Path) -> None:
    home, here, temporary = tmp_path / "home", tmp_path / "here", tmp_path / "temporary"
    for folder in (home, here, temporary):
        folder.mkdir()
    own = {"HOME": str(home), "TMPDIR": str(temporary), "TELME_MQTT__OUTBOX": "auto", "PYTHONDONTWRITEBYTECODE": "1"}
    process = await asyncio.create_subprocess_exec(
        *command("--json", "--asr", ASR, "--media", CONVERSATION, "--fast", "--mqtt", mosquitto.url),
        cwd=here,
        env={**environment(), **own, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0
    assert len(output.splitlines()) == len(expected(CONVERSATION))
    left = [file for folder in (home, here, temporary) for file in folder.rglob("*") if file.is_file()]
    assert {file.name.partition(".sqlite3")[0] for file in left} == {"outbox-telme"}
    said = json.loads(output.splitlines()[0])["transcript"]["text"]
    assert not any(said.encode() in file.read_bytes() for file in left), "what was delivered is forgotten"
