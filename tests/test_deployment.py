"""What is deployed: the service unit and the image, checked by their own tools and against the project's files."""

import configparser
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import program

from streamer.cli import _parser
from streamer.configuration import load
from streamer.settings import StreamSettings

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "deploy" / "telme-stream.service"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Repeated(dict[str, object]):
    """Keys may come again in a unit; their values are joined."""

    def __setitem__(self, key: str, value: object) -> None:
        before = self.get(key)
        super().__setitem__(key, [*before, *value] if isinstance(before, list) and isinstance(value, list) else value)


@pytest.fixture(scope="module")
def service() -> dict[str, list[str]]:
    unit = configparser.RawConfigParser(dict_type=Repeated, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text())
    return {key: value.split("\n") for key, value in unit["Service"].items()}


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/telme-live/bin/telme-stream", sys.executable))
    verified = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", copy], capture_output=True, text=True, timeout=120
    )
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_service_may_do_little(tmp_path: Path) -> None:
    """systemd's own measure of exposure, from 0 to 10; services without limits have 9.6."""
    verdict = subprocess.run(
        [program("systemd-analyze"), "security", "--offline=true", "--threshold=25", UNIT],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert verdict.returncode == 0, verdict.stdout


def test_the_unit_starts_what_there_is_and_waits_long_enough(service: dict[str, list[str]]) -> None:
    command, *flags = shlex.split(service["ExecStart"][0])
    assert Path(command).name in PROJECT["scripts"]
    _parser().parse_args(flags)
    variables = dict(line.split("=", 1) for line in service["Environment"])
    settings = load({}, variables)
    assert settings.mqtt.outbox.startswith("%S/" + service["StateDirectory"][0])
    assert variables["HF_HOME"].startswith("%C/" + service["CacheDirectory"][0])
    assert int(service["TimeoutStopSec"][0].removesuffix("s")) >= 2 * (settings.stop_s + settings.mqtt.flush_s)
    assert service["RestartPreventExitStatus"] == ["3"]  # and what is away at boot is tried again
    assert "$MAINPID" in service["ExecReload"][0]


# The image.


def instructions() -> Iterator[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def test_hadolint_has_no_objection() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    found = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_image_is_made_of_files_that_are_there_and_sent() -> None:
    sent = [line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / name).exists() for name in sent)
    copied = {
        Path(source).as_posix()
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == set(sent)
    needed = {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml"}
    assert needed <= copied


def test_the_image_installs_extras_that_exist_and_starts_what_they_bring() -> None:
    (install,) = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    (extras,) = re.findall(r'"\.\[(.+)\]"', install)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    last = dict(instructions())
    (command,) = re.findall(r'"(.+?)"', last["ENTRYPOINT"])
    assert command in PROJECT["scripts"]
    _parser().parse_args(re.findall(r'"(.+?)"', last["CMD"]))


def test_the_image_runs_as_nobody_in_particular_with_settings_that_are_ours() -> None:
    last = dict(instructions())
    assert last["USER"].isdecimal()
    assert last["USER"] != "0"
    variables = dict(part.split("=", 1) for part in shlex.split(last["ENV"]))
    settings = load({}, variables)
    assert settings != StreamSettings()
    assert not settings.output.view  # Docker would keep it
    assert not settings.output.json_lines
    assert Path(settings.mqtt.outbox).is_relative_to(last["VOLUME"])
    assert Path(variables["HF_HOME"]).is_relative_to(last["VOLUME"])
    assert f"127.0.0.1:{settings.output.metrics_port}/healthz" in last["HEALTHCHECK"]


def test_the_health_check_is_a_program(tmp_path: Path) -> None:
    (code,) = re.findall(r'"-c", "(.+?)"\]', dict(instructions())["HEALTHCHECK"])
    compile(code, "healthcheck", "exec")
