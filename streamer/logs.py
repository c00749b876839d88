"""Structured logs on stderr: for people by default, JSON lines by option."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

# Attributes that every LogRecord has; what a call adds through `extra` is whatever else is there.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

stream: ContextVar[str | None] = ContextVar("stream", default=None)
"""The stream that a task works for, said in its logs; None where there is only one."""


def configure(level: Literal["debug", "info", "warning", "error"], form: Literal["human", "json"]) -> None:
    """Send all logs of this process to stderr, replacing any handler that was there."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else HumanFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("amqtt", "transitions", "faster_whisper", "httpx", "huggingface_hub", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    name = stream.get()
    fields = {} if name is None else {"stream": name}
    return fields | {key: value for key, value in vars(record).items() if key not in _STANDARD}


class HumanFormatter(logging.Formatter):
    """`16:03:12 WARNING streamer.sources.camera: camera lost after=2.0`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        extra = "".join(f" {key}={value}" for key, value in _fields(record).items())
        line = f"{time} {record.levelname} {record.name}: {record.getMessage()}{extra}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, and what the call added."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)
