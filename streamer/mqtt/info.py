"""What a node says about itself, retained, to whoever subscribes."""

from datetime import UTC, datetime
from importlib.metadata import version

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from streamer.events import SCHEMA, BundleId, Moment


class Info(BaseModel):
    """The payload of `telme/<node>/info`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    software: str = "telme-live"
    version: str = Field(default_factory=lambda: version("telme-live"))
    event_schema: str = Field(SCHEMA, description="of what arrives on …/utterance and …/state")
    bundle: BundleId
    labels: tuple[str, ...] = Field(description="every emotion an event can name")
    streams: tuple[str, ...]
    started_at: Moment = Field(
        default_factory=lambda: datetime.now(UTC),
        description="tells apart two programs that use one node name: the later one keeps it",
    )


class _Started(BaseModel):
    """What of an info any version can read."""

    started_at: AwareDatetime


def started_at(payload: bytes) -> datetime | None:
    """When the program that sent an info was started; None where that cannot be read."""
    try:
        return _Started.model_validate_json(payload).started_at
    except ValidationError:
        return None
