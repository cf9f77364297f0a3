"""What readers of measured logs share: numbers with their line in the error, rows from pieces, and telling Oboe's files apart."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from traces.format import Source
from traces.trace import Trace


def finite(source: Source, line: int | None, what: str, cell: Any, least: float = 0.0) -> float:
    """A finite number of at least `least`. Raises TraceFormatError with the line."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        raise source.error(line, f"{what}: {cell!r} is not a number") from None
    if not math.isfinite(value) or value < least:
        raise source.error(line, f"{what}: {cell} must be a finite number, {least:g} or more")
    return value


def rows_of(source: Source, pieces: Sequence[tuple[float, Mapping[str, float]]]) -> Trace:
    """A trace of pieces one after the other, each with its seconds and its values; pieces without length are left out."""
    times: list[float] = []
    columns: dict[str, list[float]] = {}
    now = 0.0
    for seconds, values in pieces:
        if seconds > 0.0:
            times.append(now)
            for column, value in values.items():
                columns.setdefault(column, []).append(value)
            now += seconds
    if not times:
        raise source.error(None, "no row has a length: nothing to replay")
    return Trace(source.name, tuple(times), {column: tuple(values) for column, values in columns.items()}, now)


def document(source: Source) -> dict[str, Any]:
    """The JSON object of a file. Raises TraceFormatError with the line where it breaks."""
    try:
        found = json.loads(source.text)
    except json.JSONDecodeError as error:
        raise source.error(error.lineno, f"not JSON: {error.msg}") from error
    if not isinstance(found, dict):
        raise source.error(1, "a JSON object was expected")
    return found


def like_oboe(lines: Sequence[str]) -> bool:
    """Whether lines are Oboe's (ms and kbit/s) and not pairs of s and Mbit/s; read as pairs they would be wrong by 1000.

    They hold the start and end of chunks in lines of two with one rate; in ms such a chunk is longer than 20.
    """
    table = [line.split() for line in lines if line.strip()]
    couples = list(zip(table[::2], table[1::2], strict=False))
    if len(couples) < 3 or any(len(cells) != 2 or not all(map(is_number, cells)) for couple in couples for cells in couple):
        return False
    lengths = sorted(float(end[0]) - float(start[0]) for start, end in couples)
    return all(start[1] == end[1] for start, end in couples) and lengths[len(lengths) // 2] > 20.0


def is_number(cell: str) -> bool:
    """Whether a cell reads as a float."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
