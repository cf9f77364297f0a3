"""A validated scenario as plain JSON and back, in SI units, with what was given and what was left out kept apart.

Scenario files have units in strings and are read by `load.py`; this is for handing a scenario to another process.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from testbed.scenario.schema import Scenario, Table

T = TypeVar("T", bound=Table)


def to_plain(scenario: Scenario) -> dict[str, Any]:
    """Plain types; keys that the scenario does not give are absent."""
    return scenario.model_dump(mode="json", exclude_unset=True)


def from_plain(raw: Mapping[str, Any]) -> Scenario:
    """What `to_plain` was given; values are not validated again."""
    return _table(Scenario, raw)


def _table(kind: type[T], raw: Mapping[str, Any]) -> T:
    hints = typing.get_type_hints(kind)
    values = {name: _value(hints[name], value) for name, value in raw.items()}
    return typing.cast(T, kind.model_construct(_fields_set=set(raw), **values))


def _value(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _value(next(a for a in arguments if a is not type(None)), value)
    if isinstance(hint, type) and issubclass(hint, Table):
        return _table(hint, value)
    if origin is dict:
        return {key: _value(arguments[1], item) for key, item in value.items()}
    if origin is tuple:
        return tuple(_value(arguments[0], item) for item in value)
    return value
