"""A user's mistakes: one clear sentence, exit code 2, no traceback."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import free_port, program
from streams import ACTED, ASR, CONVERSATION, command, environment, run

from telme.bundle import COMPACT

pytestmark = pytest.mark.slow


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([program("ffmpeg"), "-v", "error", "-y", *map(str, arguments)], check=True)


def without_sound(folder: Path) -> list[str | Path]:
    ffmpeg("-i", CONVERSATION, "-t", "2", "-an", "-c:v", "copy", folder / "silent.mp4")
    return ["--media", folder / "silent.mp4"]


def no_media(folder: Path) -> list[str | Path]:
    (folder / "notes.txt").write_text("not a film")
    return ["--media", folder / "notes.txt"]


def zero_length(folder: Path) -> list[str | Path]:
    (folder / "empty.mp4").touch()
    return ["--media", folder / "empty.mp4"]


def damaged_bundle(folder: Path) -> list[str | Path]:
    bundle = folder / "bundle"
    shutil.copytree(COMPACT, bundle)
    part = bundle / json.loads((bundle / "manifest.json").read_text())["parts"]["fusion"]["file"]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    return ["--media", ACTED, "--bundle", bundle]


def no_password(folder: Path) -> list[str | Path]:
    return ["--media", ACTED, "--mqtt", "mqtt://127.0.0.1:1", "--set", f"mqtt.password_file={folder / 'none'}"]


MISTAKES: dict[str, tuple[Callable[[Path], list[str | Path]], str]] = {
    "no source": (lambda _: [], "--media"),
    "no such file": (lambda folder: ["--media", folder / "missing.mp4"], "missing.mp4"),
    "a folder": (lambda folder: ["--media", folder], "folder"),
    "no media": (no_media, "notes.txt"),
    "zero length": (zero_length, "empty"),
    "no sound": (without_sound, "sound"),
    "no such microphone": (lambda _: ["--microphone", "no such device"], "no such device"),
    "no such camera": (lambda _: ["--camera", "/dev/video99", "--microphone", "none"], "icrophone"),
    "unknown speech model": (lambda _: ["--media", ACTED, "--asr", "tiniest"], "tiniest"),
    "no such model folder": (lambda folder: ["--media", ACTED, "--asr", folder / "model"], "model"),
    "wrong language": (lambda _: ["--media", ACTED, "--language", "de"], "English only"),
    "no broker there": (lambda _: ["--media", ACTED, "--mqtt", f"mqtt://127.0.0.1:{free_port()}"], "cannot connect"),
    "password in the address": (lambda _: ["--media", ACTED, "--mqtt", "mqtt://me:secret@host"], "TELME_MQTT_PASSWORD"),
    "no password file": (no_password, "password_file"),
    "damaged bundle": (damaged_bundle, "damaged"),
    "no bundle": (lambda folder: ["--media", ACTED, "--bundle", folder], "not a bundle"),
    "unknown setting": (lambda _: ["--media", ACTED, "--set", "segmentation.hangover=3"], "Unknown setting"),
    "setting out of range": (lambda _: ["--media", ACTED, "--set", "segmentation.hangover_ms=3"], "hangover_ms = '3'"),
    "no settings file": (lambda folder: ["--config", folder / "none.yaml"], "No such file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_sentence(mistake: str, tmp_path: Path) -> None:
    make, named = MISTAKES[mistake]
    flags = make(tmp_path)
    asr = [] if "--asr" in flags else ["--asr", ASR]
    ended = subprocess.run(command(*asr, *flags), capture_output=True, text=True, timeout=60, env=environment())
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    complaint = ended.stderr.strip().splitlines()[-1]
    assert complaint.startswith("telme-stream: ")
    assert named in complaint
    assert "secret@" not in ended.stderr


def test_a_full_disk_ends_the_stream_with_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command("--json", "--asr", ASR, "--media", ACTED, "--fast"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=environment(),
        )
    assert ended.returncode == 2
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("--media {media} --json >&-", 2, "standard output is closed"),
        ("--media {media} --fast --log-level warning >&-", 0, ""),
        ("--media {media} --fast --json --report 2>&-", 0, ""),
        ("--print-config >&-", 2, "standard output is closed"),
        ("--print-config >/dev/full", 2, "No space left on device"),
        ("--print-config 2>&-", 0, ""),
        ("--print-asyncapi | true", 0, ""),
    ],
)
def test_an_output_that_cannot_be_used_costs_one_sentence(line: str, code: int, says: str) -> None:
    shell = "set -o pipefail; " + " ".join(command("--asr", ASR, line.format(media=ACTED)))
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, env=environment())
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert says in (ended.stderr.strip().splitlines() or [""])[-1]
    assert (ended.stderr == "") == (code == 0)


def test_8_bit_mono_8_khz_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "telephone.wav"
    ffmpeg("-i", ACTED, "-ar", "8000", "-ac", "1", "-c:a", "pcm_u8", file)
    ended = run("--media", file, "--fast")
    assert ended.code == 0, ended.log
    assert len(ended.events) == len(run("--media", ACTED, "--fast").events)


def test_a_4k_picture_is_scaled_down_and_its_faces_are_found(tmp_path: Path) -> None:
    file = tmp_path / "large.mp4"
    scale = "scale=3840:2160:force_original_aspect_ratio=decrease,pad=3840:2160:-1:-1"
    ffmpeg("-i", CONVERSATION, "-t", "6", "-vf", scale, "-c:v", "mpeg4", "-q:v", "5", "-c:a", "copy", file)
    ended = run("--media", file, "--fast")
    assert ended.code == 0, ended.log
    assert [event["modalities"]["visual"] is not None for event in ended.events] == [True, True]
