"""The address of a broker, as people write it: `mqtt://user@host:1883`."""

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

from pydantic import GetPydanticSchema
from pydantic_core import core_schema

_DEFAULT_PORT = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    user: str | None = None
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Raises ValueError with a sentence that says what is wrong; a password is never repeated in it."""
        try:
            parts = urlsplit(url.strip())
        except ValueError:
            raise ValueError("the broker's address is no URL, as mqtt://localhost:1883 is") from None
        if parts.scheme not in _DEFAULT_PORT:
            raise ValueError(f"a broker's address begins with mqtt:// or mqtts://, not {parts.scheme or 'nothing'!r}")
        if parts.password is not None:
            raise ValueError(
                "the password does not belong in the address: put it in TELME_MQTT_PASSWORD or mqtt.password_file"
            )
        if not parts.hostname:
            raise ValueError("the broker's address lacks a host, as in mqtt://localhost:1883")
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError("a broker's address ends after the port")
        return cls(
            host=parts.hostname,
            port=_port(parts),
            user=unquote(parts.username) if parts.username else None,
            tls=parts.scheme == "mqtts",
        )

    def __str__(self) -> str:
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{user}{host}:{self.port}"


def _port(parts: SplitResult) -> int:
    try:
        port = _DEFAULT_PORT[parts.scheme] if parts.port is None else parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("the broker's port must be a number from 1 to 65535")
    return port


def _schema(_source: Any, _handler: Any) -> core_schema.CoreSchema:
    parse = core_schema.no_info_plain_validator_function(
        lambda value: value if isinstance(value, Address) else Address.parse(str(value)),
        serialization=core_schema.to_string_ser_schema(),
    )
    return core_schema.json_or_python_schema(
        json_schema=core_schema.chain_schema([core_schema.str_schema(), parse]),
        python_schema=parse,
        serialization=core_schema.to_string_ser_schema(),
    )


MqttAddress = Annotated[Address, GetPydanticSchema(_schema)]
