"""The JSON Schema of scenario files, for editors: completion, meanings and mistakes while one types.

It is made from the models of `schema.py`. What it cannot say (a rate above 0, a link that the topology lacks, a file
that is not there) the loader says (`load.py`, `links.py`).
"""

from __future__ import annotations

import re
from typing import Any

from pydantic.fields import FieldInfo

from testbed.scenario.reference import default_of, kinds_of, quantity_of
from testbed.scenario.schema import Scenario
from testbed.scenario.table import Table, key_of
from testbed.scenario.units import SHARE, Quantity

SET_BY_LOADER = ("directory",)
"""Fields of the models that no file has."""

_NUMBER = r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a scenario file that is read as TOML."""
    found = Scenario.model_json_schema()
    definitions = found.pop("$defs")
    tables = {
        kind.__name__: kind for field in Scenario.model_fields.values() for kind in kinds_of(field.annotation) if _is_table(kind)
    }
    top = _table(Scenario, found)
    top["required"] = [name for name in top["required"] if name not in (*SET_BY_LOADER, "name")]  # the file's name will do
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Scenario of the D3 testbed",
        **top,
        "$defs": {name: _table(tables[name], definition) for name, definition in sorted(definitions.items())},
    }


def _table(kind: type[Table], found: dict[str, Any]) -> dict[str, Any]:
    given = found["properties"]
    fields = {key_of(name, field): field for name, field in kind.model_fields.items() if name not in SET_BY_LOADER}
    properties = {name: _key(field, given[name]) for name, field in fields.items()}
    required = {"required": found["required"]} if "required" in found else {}
    return {"type": "object", "additionalProperties": False, "properties": properties, **required}


def _key(field: FieldInfo, found: dict[str, Any]) -> dict[str, Any]:
    """What one key may hold. An absent key is the only null that TOML has."""
    quantity = quantity_of(field)
    described = {"description": field.description} if field.description else {}
    if any(_is_table(kind) for kind in kinds_of(field.annotation)):
        return {key: value for key, value in found.items() if key not in ("default", "title")} | described
    default = {} if field.is_required() or found.get("default") in (None, {}) else {"default": found["default"]}
    if quantity is not None:
        default = {"default": default_of(field)} if default else {}
        return {**_quantity(quantity), **described, **default}
    plain = next((choice for choice in found.get("anyOf", ()) if choice != {"type": "null"}), found)
    if plain.get("type") == "array":
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": plain["items"], "minItems": 1}], **described, **default}
    left_out = ("title", "default", "description")
    return {**{key: value for key, value in plain.items() if key not in left_out}, **described, **default}


def _quantity(quantity: Quantity) -> dict[str, Any]:
    units = "|".join(re.escape(unit).replace(r"\ ", " ") for unit in quantity.units if unit)
    units = f"({units})?" if "" in quantity.units else f"({units})"
    text = {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*{units}\s*$", "examples": [quantity.example.strip('"')]}
    return {"anyOf": [text, {"type": "number", "minimum": 0}]} if quantity == SHARE else text


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Table)
