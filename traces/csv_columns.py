"""Reader of our own CSV: a header of named columns, one row per change; the only format that can carry every column.

Columns: `time_s` (first row 0, rising) and at least one of `rate_mbps` or `rate_bps`, `delay_ms` (one way), `loss` (0..1),
`cpu_share` (above 0, up to 1: share of a host's CPU that is free), `requests_per_s` (of a device). Lines that start with "#" are
comments. A last row with nothing but its `time_s` marks the end of the period; without it the last row lasts for the median step.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Mapping, Sequence

from traces.format import Format, Source, held_rows
from traces.trace import Trace

SCALES: dict[str, tuple[str, float]] = {
    "rate_mbps": ("rate_bps", 1e6),
    "rate_bps": ("rate_bps", 1.0),
    "delay_ms": ("delay_s", 1e-3),
    "loss": ("loss", 1.0),
    "cpu_share": ("cpu_share", 1.0),
    "requests_per_s": ("requests_per_s", 1.0),
}
"""File column -> (trace column, factor to SI)."""


def _content(lines: Sequence[str]) -> list[tuple[int, str]]:
    return [(n, line) for n, line in enumerate(lines, start=1) if line.strip() and not line.lstrip().startswith("#")]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line]))]


def _header(source: Source, number: int, line: str) -> list[str]:
    header = _cells(line)
    for name in header:
        if name != "time_s" and name not in SCALES:
            near = difflib.get_close_matches(name, ["time_s", *SCALES], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise source.error(number, f"unknown column {name!r}{hint} (known: time_s, {', '.join(SCALES)})")
    if len(set(header)) != len(header):
        raise source.error(number, "a column is named twice")
    if "time_s" not in header:
        raise source.error(number, "no column time_s")
    if len(header) == 1:
        raise source.error(number, f"no column besides time_s (known: {', '.join(SCALES)})")
    if {"rate_mbps", "rate_bps"} <= set(header):
        raise source.error(number, "rate_mbps and rate_bps in one file; keep one")
    return header


def _value(source: Source, number: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise source.error(number, f"{column}: {cell!r} is not a number") from None
    if not math.isfinite(value) or value < 0.0:
        raise source.error(number, f"{column}: {cell} must be a finite number, 0 or more")
    if column in ("loss", "cpu_share") and value > 1.0:
        raise source.error(number, f"{column}: {cell} is a share and cannot be above 1 (write 5 % as 0.05)")
    if column == "cpu_share" and value == 0.0:
        raise source.error(number, "cpu_share: 0 would stop the host for good; give a small share such as 0.01")
    return value


def _parse(source: Source, options: Mapping[str, str]) -> Trace:
    content = _content(source.lines)
    if not content:
        raise source.error(None, "no header: the file holds comments only")
    header = _header(source, *content[0])
    names = [name for name in header if name != "time_s"]
    times: list[float] = []
    values: dict[str, list[float]] = {name: [] for name in names}
    end_s: float | None = None
    for number, line in content[1:]:
        cells = _cells(line)
        if end_s is not None:
            raise source.error(number, "a row follows the row without values, which ends the period")
        if len(cells) != len(header):
            end = f"; to end the trace there, write {cells[0] + ',' * (len(header) - 1)!r}" if len(cells) == 1 else ""
            raise source.error(number, f"{len(cells)} cell(s) where the header has {len(header)} columns: {line!r}{end}")
        row = dict(zip(header, cells, strict=True))
        time_s = _value(source, number, "time_s", row.pop("time_s"))
        if not times and time_s != 0.0:
            raise source.error(number, f"the first row must start at 0 s, not at {time_s} s")
        if times and time_s <= times[-1]:
            raise source.error(number, f"times must rise, but {time_s} s comes after {times[-1]} s")
        if times and not any(row.values()):
            end_s = time_s
            continue
        for name, cell in row.items():
            values[name].append(_value(source, number, name, cell))
        times.append(time_s)
    if not times:
        raise source.error(content[0][0], "a header, but no rows")
    columns = {SCALES[name][0]: [value * SCALES[name][1] for value in values[name]] for name in names}
    return held_rows(source, times, columns, end_s)


def _recognises(lines: Sequence[str]) -> bool:
    content = _content(lines)
    if not content:
        return False
    names = _cells(content[0][1])
    return len(names) > 1 and ("time_s" in names or any(name in SCALES for name in names))


read = Format(
    name="csv",
    summary="CSV with a header: time_s and any of " + ", ".join(SCALES),
    recognises=_recognises,
    parse=_parse,
)
