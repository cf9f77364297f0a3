"""What all regressions of latency have in common: a model per kind of operator, kept as a JSON file that names its format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar, cast

from testbed.costs.features import Kind
from testbed.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

VERSION = 1
M = TypeVar("M")
R = TypeVar("R")


def model_of(kinds: Mapping[Kind, M], kind: Kind) -> M:
    """The model of a kind. Raises InputError for one without samples."""
    if kind not in kinds:
        raise InputError(f"this regression has no samples of kind {kind!r} (it has {', '.join(kinds)}); profile more models")
    return kinds[kind]


def write(regression: DataclassInstance, format_name: str) -> str:
    """JSON text that `read` reads back to an equal regression."""
    return json.dumps({"format": format_name, "version": VERSION, **asdict(regression)}, indent=1) + "\n"


def read(text: str, format_name: str, name: str, make: Callable[..., R], model: Callable[..., object]) -> R:
    """What `write` wrote: `make(kinds=..., ...)` with a `model` for each kind, whose lists are tuples. Raises InputError naming
    the file."""
    called = format_name.removeprefix("d3-testbed ")
    try:
        raw: dict[str, Any] = json.loads(text)
        if raw.pop("format") != format_name or raw.pop("version") != VERSION:
            raise InputError(f"{name}: not a {called} file of version {VERSION}")
        kinds = {
            cast(Kind, kind): model(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
            for kind, fields in raw.pop("kinds").items()
        }
        return make(kinds=kinds, **raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: not a {called} file ({error})") from error
