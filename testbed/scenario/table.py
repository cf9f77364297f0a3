"""What all tables of a scenario file are."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class Table(BaseModel):
    """Base of all tables: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def key_of(name: str, field: FieldInfo) -> str:
    """What a file calls a field ("for" cannot be a name in Python)."""
    return field.alias or name
