"""Where a node's undelivered events lie."""

from collections.abc import Mapping
from pathlib import Path

from streamer.mqtt.errors import OutboxError
from streamer.settings import Mqtt


def outbox_path(settings: Mqtt, node: str, environment: Mapping[str, str]) -> Path | None:
    """The file that `mqtt.outbox` means; None for memory.

    `auto` is a file of the node's own in the user's state folder (XDG Base Directory Specification 0.8), but memory
    with the embedded broker, which ends together with this program. Raises OutboxError where there is no such folder.
    """
    if settings.outbox in ("", "none"):
        return None
    if settings.outbox != "auto":
        return Path(settings.outbox).expanduser()
    if settings.broker == "embedded":
        return None
    return _state_folder(environment) / "telme-live" / f"outbox-{node}.sqlite3"


def _state_folder(environment: Mapping[str, str]) -> Path:
    for name, below in (("XDG_STATE_HOME", ""), ("HOME", ".local/state")):
        folder = Path(environment.get(name, ""))
        if folder.is_absolute():
            return folder / below
    raise OutboxError(
        "there is no folder for undelivered events, as neither XDG_STATE_HOME nor HOME is an absolute path: "
        "set mqtt.outbox to a file, or to none"
    )
