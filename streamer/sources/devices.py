"""Which microphones and cameras this machine has."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamer.signals import SAMPLE_RATE_HZ, SourceError

DEFAULT_MICROPHONE = "default"


@dataclass(frozen=True)
class MicrophoneInfo:
    """A device as PortAudio lists it; the index changes when devices come and go."""

    index: int
    name: str
    channels: int
    rate_hz: int
    is_default: bool


def portaudio() -> Any:
    """The sounddevice module. Raises SourceError where the PortAudio library is missing."""
    try:
        import sounddevice  # it loads the library on import, and a machine without microphone need not have one
    except OSError as error:
        raise SourceError(
            f"Microphones need the PortAudio library ({error}): install it, e.g. with apt install libportaudio2."
        ) from error
    return sounddevice


def microphones() -> list[MicrophoneInfo]:
    sounddevice = portaudio()
    default = sounddevice.default.device[0]
    return [
        MicrophoneInfo(
            index=device["index"],
            name=device["name"],
            channels=device["max_input_channels"],
            rate_hz=round(device["default_samplerate"]),
            is_default=device["index"] == default,
        )
        for device in sounddevice.query_devices()
        if device["max_input_channels"] > 0
    ]


def find_microphone(wanted: str) -> MicrophoneInfo:
    """By index, by name, by part of a name, or "default". Raises SourceError naming those there are."""
    present = microphones()
    if wanted == DEFAULT_MICROPHONE:
        matching = [m for m in present if m.is_default]
    elif wanted.isdecimal():
        matching = [m for m in present if m.index == int(wanted)]
    else:
        matching = [m for m in present if m.name == wanted] or [m for m in present if wanted.lower() in m.name.lower()]
    if matching:
        return matching[0]
    if not present:
        raise SourceError(f'No microphone "{wanted}": this machine has none that PortAudio can see.')
    names = ", ".join(f'{m.index} "{m.name}"' for m in present)
    raise SourceError(f'No microphone "{wanted}"; there are: {names}.')


def cameras() -> list[tuple[str, str]]:
    """(path, name) of each camera; empty where the system offers no list."""
    found = []
    for path in sorted(Path("/dev").glob("video*")):
        name = Path("/sys/class/video4linux") / path.name / "name"
        found.append((str(path), name.read_text().strip() if name.is_file() else "camera"))
    return found


def list_devices() -> str:
    """What --list-devices prints."""
    return "\n".join(["Microphones:", *_microphone_lines(), "Cameras:", *_camera_lines()])


def _microphone_lines() -> list[str]:
    try:
        present = microphones()
    except SourceError as error:
        return [f"  {error}"]
    return [_microphone_line(m) for m in present] or ["  none"]


def _microphone_line(microphone: MicrophoneInfo) -> str:
    rates = f"{microphone.rate_hz} Hz" + (f", {SAMPLE_RATE_HZ} Hz" if _offers_16k(microphone) else "")
    channels = f"{microphone.channels} channel" + ("s" if microphone.channels > 1 else "")
    default = " (default)" if microphone.is_default else ""
    return f'  {microphone.index}: "{microphone.name}", {channels}, {rates}{default}'


def _offers_16k(microphone: MicrophoneInfo) -> bool:
    sounddevice = portaudio()
    try:
        sounddevice.check_input_settings(microphone.index, channels=1, samplerate=SAMPLE_RATE_HZ)
    except sounddevice.PortAudioError:
        return False
    return microphone.rate_hz != SAMPLE_RATE_HZ


def _camera_lines() -> list[str]:
    if platform.system() != "Linux":
        return ["  by index, in the system's order: 0, 1 …"]
    return [f"  {path}: {name}" for path, name in cameras()] or ["  none"]
