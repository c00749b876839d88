"""A turn of the dialogue that no source hears: what the robot said itself."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from streamer.settings import Name


class Said(BaseModel):
    """The payload of `telme/<node>/dialogue/add`. Without a speaker it is the robot; without a stream, said in all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000)]
    speaker: Name | None = None
    stream: str | None = None
