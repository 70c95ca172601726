"""What recipes and their like are made of: a closed part, and the numbers in it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Channels = Annotated[int, Field(ge=8, le=8192, multiple_of=8)]
FREE: JsonDict = {
    "free": True
}  # marks a key that a resumed run may have changed: it doesn't alter the result


class Part(BaseModel):
    """A part of a recipe: typed, frozen, and closed to keys that it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
