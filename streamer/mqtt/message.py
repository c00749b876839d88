"""A message on its way to the broker."""

from dataclasses import dataclass
from typing import Literal

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

JSON = "application/json"
TEXT = "text/plain"


@dataclass(frozen=True)
class Outgoing:
    """A message to publish. What MQTT 3.1.1 cannot say is left out there: the payload alone suffices.

    expiry_s: the broker forgets the message after so many seconds; None keeps it.
    correlation: says which request this answers, in the requester's own bytes.
    """

    topic: str
    payload: str
    qos: Literal[0, 1] = 1
    retain: bool = False
    content_type: str = JSON
    expiry_s: int | None = None
    correlation: bytes | None = None

    def properties(self) -> Properties:
        """The MQTT 5 properties of this message."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.PayloadFormatIndicator = 1  # UTF-8
        properties.ContentType = self.content_type
        if self.expiry_s is not None:
            properties.MessageExpiryInterval = self.expiry_s
        if self.correlation is not None:
            properties.CorrelationData = self.correlation
        return properties
