"""The reference of scenario files, docs/scenarios.md, made from the schema: every table and key with unit, default and meaning.

`python -m testbed.scenario.reference` writes it to standard output; a test keeps the committed file up to date.
"""

from __future__ import annotations

import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from pydantic.fields import FieldInfo

from testbed.scenario import faults, schema
from testbed.scenario.table import Table, key_of
from testbed.scenario.units import Quantity

HEAD = """\
# Scenario files

<!-- Made from testbed/scenario/schema.py: python -m testbed.scenario.reference > docs/scenarios.md -->

A scenario is a TOML file with one table for each concern. Every quantity is a string with its unit; a bare number is an error,
and so is an unknown key (the message names the nearest known one, with file and line). `testbed run FILE --set TABLE.KEY=VALUE`
overrides a key. A run folder may stand for a scenario: `testbed run runs/NAME` repeats the run, in `sim` to the byte.

| quantity | units | example |
|---|---|---|
| rate | bit/s, kbit/s, Mbit/s, Gbit/s | `"30 Mbit/s"` |
| duration | us, ms, s, min | `"20 ms"` |
| size | B, kB, MB, GB, KiB, MiB, GiB | `"10 MB"` |
| frequency | /s, /min | `"2 /s"` |
| share | %, or a number from 0 to 1 | `"5 %"`, `0.05` |

File names are relative to the scenario file. The shipped scenarios are in `topologies/*.toml` and are known by name
(`testbed run quickstart`).
"""

TABLES: tuple[tuple[str, type[Table], str], ...] = (
    ("the top of the file", schema.Scenario, ""),
    (
        "[model]",
        schema.ModelTable,
        "Zoo names (`testbed models`), `package.module:factory`, `file.py:factory`, or `.pt2` files.",
    ),
    (
        "[topology]",
        schema.TopologyTable,
        "`three_tier` has hosts d1.., e1.., c1; `two_sites` has da1.., ea1.. at site a and db1.., eb1.. at site b, and counts"
        " devices and edges per site.",
    ),
    (
        "[links.ROLE] and [links.NAME]",
        schema.LinkTable,
        "A role (`access`, `lan`, `backbone`, `cellular`, ...) stands for all its links, a name (`access-d1`, "
        "`lan-e2`) for one, and overrides its role key by key. Access links have 84.95 Mbit/s unless said "
        "otherwise, LAN and core links 1 Gbit/s; backbone and cellular links need a rate or a trace. A trace is a "
        "file (mahimahi, time/rate pairs, CSV with columns such as `time_s`, `rate_mbps`, `delay_ms`, `loss`), the "
        "name of a shipped one (`testbed traces list`), or `generate:PRESET?seed=N`; what it does not give stays "
        "as the table says. Traces loop unless `trace_loop = false`.",
    ),
    (
        "[hosts.TIER] and [hosts.NAME]",
        schema.HostTable,
        "A tier (`device`, `edge`, `cloud`) stands for all its hosts, a name (`e2`) for one. Device descriptions:"
        " `testbed profile devices`.",
    ),
    ("[compute]", schema.ComputeTable, ""),
    (
        "[network]",
        schema.NetworkTable,
        "Route `relay`: the edge leader stores and forwards what a device sends to the cloud. Route `direct`: a "
        "connection of its own, over the cellular uplink where there is one.",
    ),
    (
        "[requests]",
        schema.RequestsTable,
        "With `trace` the rate of Poisson arrivals follows a CSV file with the columns `time_s` and `requests_per_s` (of each "
        "device), or a shipped one: `day` is 24 hours of 1 request a second on average. It starts again at its end.",
    ),
    ("[planning]", schema.PlanningTable, "What is estimated, and how, is in [run_folder.md](run_folder.md)."),
    ("[run]", schema.RunTable, ""),
    (
        "[[fault]]",
        faults.FaultTable,
        "As many as you like; each happens in every session (model and planner) alike. [faults.md](faults.md) says what each kind"
        " needs, and what becomes of requests.",
    ),
    ("[recovery]", faults.RecoveryTable, "See [faults.md](faults.md)."),
)

_PLAIN: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def markdown() -> str:
    """The text of docs/scenarios.md."""
    return HEAD + "".join(_section(*table) for table in TABLES)


def _section(title: str, table: type[Table], text: str) -> str:
    kind = title if not title.startswith("[") else " and ".join(f"`{part}`" for part in title.split(" and "))
    rows = "".join(_row(name, field) for name, field in table.model_fields.items() if not _inner(field) and name != "directory")
    lead = textwrap.fill(text, 130, break_on_hyphens=False) + "\n\n" if text else ""
    return f"\n## {kind[0].upper()}{kind[1:]}\n\n{lead}| key | value | default | meaning |\n|---|---|---|---|\n{rows}"


def _inner(field: FieldInfo) -> bool:
    """Whether a field is a table of its own, or a folder of them."""
    return any(isinstance(kind, type) and issubclass(kind, Table) for kind in kinds_of(field.annotation))


def _row(name: str, field: FieldInfo) -> str:
    limits = ((word, getattr(item, key, None)) for item in _metadata(field) for key, word in _BOUNDS.items())
    value = ", ".join([_value(field), *(f"{word} {limit:g}" for word, limit in limits if limit is not None)])
    extra = field.json_schema_extra
    said = str(extra["default"]) if isinstance(extra, dict) else "**needed**"
    default = said if field.is_required() else default_of(field)
    return f"| `{key_of(name, field)}` | {value} | {default} | {(field.description or '').replace('|', chr(92) + '|')} |\n"


def _value(field: FieldInfo) -> str:
    quantity = quantity_of(field)
    if quantity is not None:
        return quantity.kind
    kind = next(kinds_of(field.annotation))
    if typing.get_origin(kind) is Literal:
        return ", ".join(f"`{word}`" for word in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "name or list of names"
    if typing.get_origin(kind) is dict:
        return "table"
    return _PLAIN[kind]


def default_of(field: FieldInfo) -> str:
    """A key's default as a file would say it."""
    found = field.get_default(call_default_factory=True)
    quantity = quantity_of(field)
    if found is None:
        return "–"
    if quantity is not None:
        return f"{found:g} {quantity.unit}".strip()
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, tuple):
        return ", ".join(f"`{item}`" for item in found)
    if isinstance(found, str):
        return f"`{found}`" if found else "–"
    return f"{found:g}" if isinstance(found, int | float) else "–"


def quantity_of(field: FieldInfo) -> Quantity | None:
    """The quantity that a key holds, if it is one."""
    return next((item for item in _metadata(field) if isinstance(item, Quantity)), None)


def _metadata(field: FieldInfo) -> Iterator[Any]:
    """Annotations of a field, and of the members of its union."""
    yield from field.metadata
    for kind in _members(field.annotation):
        yield from getattr(kind, "__metadata__", ())


def _members(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def kinds_of(annotation: Any) -> Iterator[Any]:
    """The types that a field may have, without None; of a dict or a list also its values'."""
    for kind in _members(annotation):
        plain = getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind
        if plain is type(None):
            continue
        yield plain
        if typing.get_origin(plain) is dict:
            yield typing.get_args(plain)[1]
        elif typing.get_origin(plain) is tuple:
            yield typing.get_args(plain)[0]


if __name__ == "__main__":
    sys.stdout.write(markdown())
