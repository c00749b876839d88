"""The event schema `telme.emotion/1`: what subscribers read."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

SCHEMA: Final = "telme.emotion/1"

Probability = Annotated[float, Field(ge=0, le=1)]
Coordinate = Annotated[float, Field(ge=-1, le=1)]
Milliseconds = Annotated[float, Field(ge=0)]


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


# RFC 3339. What comes in another zone goes out in UTC; without a zone a time is refused.
Moment = Annotated[
    AwareDatetime,
    AfterValidator(_in_utc),
    Field(json_schema_extra={"pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$"}),
]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, json_schema_serialization_defaults_required=True
    )


class Latency(_Model):
    """Milliseconds. `endpoint` and `total` count from the end of speech; the others are durations.

    A stage that did not run is null. For a file played faster than real time, `endpoint` and `total`
    are in stream time plus computing time. In a provisional event, speech ends where it ended so far, and the
    endpoint is the moment at which that was taken for recognition.
    """

    endpoint: Milliseconds = Field(description="from the end of speech until the utterance was declared over")
    source: Milliseconds | None = Field(
        None,
        description="how late the endpoint's sound came, beyond the least of a minute; null for a file and in a gap",
    )
    speculation: Milliseconds | None = Field(
        None, description="from the end of speech until work began ahead of the endpoint; null where it began after it"
    )
    queue: Milliseconds = Field(description="from the endpoint until work on the utterance began")
    transcription: Milliseconds | None = None
    speaker: Milliseconds | None = Field(None, description="how long it took to hear whose voice it is")
    text: Milliseconds | None = None
    audio: Milliseconds | None = None
    visual: Milliseconds | None = None
    fusion: Milliseconds | None = None
    total: Milliseconds = Field(description="from the end of speech until the event was handed to its publishers")


class Heard(_Model):
    """What was said, as the speech recogniser heard it."""

    text: str
    confidence: Probability = Field(description="exp of the mean token log-probability")
    language: str = Field(description="ISO 639-1 code")


class ModalityScores(_Model):
    """Each modality's own verdict, or null where it was missing."""

    text: dict[str, Probability] | None = None
    audio: dict[str, Probability] | None = None
    visual: dict[str, Probability] | None = None


class BundleId(_Model):
    name: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the bundle's manifest")


class EmotionEvent(_Model):
    """The emotion that one utterance shows."""

    schema_: Literal["telme.emotion/1"] = Field(SCHEMA, alias="schema")
    event_id: str = Field(description="unique; the same when an event is delivered twice")
    node: str
    stream: str
    utterance: str = Field(description="the same in every phase and revision of one utterance")
    phase: Literal["provisional", "final"]
    revision: int = Field(ge=0, description="counts the events of one utterance and phase")
    start_s: float = Field(ge=0, description="speech begins, seconds since the stream's start")
    end_s: float = Field(ge=0)
    started_at: Moment = Field(description="`start_s` as wall-clock time, RFC 3339, UTC")
    ended_at: Moment
    end_reason: Literal["silence", "length", "gap", "stream_end"] | None = Field(description="null while provisional")
    speaker: str
    transcript: Heard | None = Field(description="null when switched off, missing or not believed")
    emotion: str = Field(description="the most probable label")
    scores: dict[str, Probability]
    confidence: Probability = Field(description="calibrated probability of `emotion`")
    valence: Coordinate
    arousal: Coordinate
    modalities: ModalityScores
    latency_ms: Latency
    bundle: BundleId

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "EmotionEvent":
        """Raises pydantic.ValidationError on anything that does not fit the schema."""
        return cls.model_validate_json(text)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of an event as it is published: every field is there, if only as null."""
    schema = EmotionEvent.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA, **schema}
