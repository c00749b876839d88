"""What a node says about itself, retained, to whoever subscribes."""

from importlib.metadata import version

from pydantic import BaseModel, ConfigDict, Field

from streamer.events import SCHEMA, BundleId


class Info(BaseModel):
    """The payload of `telme/<node>/info`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    software: str = "telme-live"
    version: str = Field(default_factory=lambda: version("telme-live"))
    event_schema: str = Field(SCHEMA, description="of what arrives on …/utterance and …/state")
    bundle: BundleId
    labels: tuple[str, ...] = Field(description="every emotion an event can name")
    streams: tuple[str, ...]
