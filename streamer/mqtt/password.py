"""The broker's password: from a file or the environment, never from the command line, where others can read it."""

from collections.abc import Mapping
from pathlib import Path

from streamer.mqtt.errors import BrokerError

VARIABLE = "TELME_MQTT_PASSWORD"
BYTES_MAX = 65_535  # what MQTT carries


def read_password(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The first line of `file` if there is one, else the variable TELME_MQTT_PASSWORD, else None.

    Raises BrokerError when the file cannot be read or is empty.
    """
    if file is None:
        return environment.get(VARIABLE) or None
    try:
        with file.open("rb") as opened:
            lines = opened.read(BYTES_MAX + 1).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerError(f"cannot read mqtt.password_file {file} ({error})") from None
    if not lines or not lines[0]:
        raise BrokerError(f"mqtt.password_file {file} is empty: write the password on its first line")
    if len(lines[0].encode()) > BYTES_MAX:
        raise BrokerError(f"mqtt.password_file {file} holds more than {BYTES_MAX} bytes: that is no password")
    return lines[0]
