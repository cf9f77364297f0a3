"""Reader and writer of the logs of Riiser et al. (MMSys 2013) and of Ghent University (van der Hooft et al., 2016):
`epoch elapsed_ms latitude longitude bytes interval_ms`, split by blanks.

A row says how many bytes came in the interval that ends at its elapsed time, so it holds from the row before to itself; rows
without an interval are left out, rows without bytes are outages. Positions are not read. The epoch (in ms, or in s in the
Norwegian originals) is not read either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from traces.format import Format, Source
from traces.numbers import finite, is_number, rows_of
from traces.trace import Trace

_COLUMNS = 6


def _parse(source: Source, options: Mapping[str, str]) -> Trace:
    pieces: list[tuple[float, dict[str, float]]] = []
    before_ms: float | None = None
    for number, line in enumerate(source.lines, start=1):
        cells = line.split()
        if len(cells) != _COLUMNS:
            raise source.error(
                number, f"{len(cells)} column(s) where epoch, elapsed, position, bytes and interval are six: {line!r}"
            )
        elapsed_ms = finite(source, number, "elapsed time", cells[1])
        size, interval_ms = finite(source, number, "bytes", cells[4]), finite(source, number, "interval", cells[5])
        if before_ms is not None and elapsed_ms < before_ms:
            raise source.error(number, f"elapsed times must not fall, but {elapsed_ms:g} ms comes after {before_ms:g} ms")
        if interval_ms == 0.0:
            continue
        start_ms = elapsed_ms - interval_ms if before_ms is None else before_ms
        pieces.append(((elapsed_ms - start_ms) / 1e3, {"rate_bps": size * 8e3 / interval_ms}))
        before_ms = elapsed_ms
    return rows_of(source, pieces)


def _recognises(lines: Sequence[str]) -> bool:
    cells = next((line.split() for line in lines if line.strip()), [])
    return len(cells) == _COLUMNS and all(map(is_number, cells)) and cells[0].isdigit() and cells[1].isdigit()


def write(trace: Trace) -> str:
    """A row for every row, without an epoch or a position (zeros). Raises ValueError for a trace without a rate."""
    lines, before_ms = [], 0
    for _, end_s, rate in trace.rates():
        end_ms = round(end_s * 1e3)
        if end_ms > before_ms:
            lines.append(f"{end_ms} {end_ms} 0 0 {round(rate * (end_ms - before_ms) / 8e3)} {end_ms - before_ms}")
            before_ms = end_ms
    return "\n".join(lines) + "\n"


read = Format(
    name="ghent",
    summary="epoch, elapsed ms, position, bytes and interval in ms (Riiser, Ghent)",
    recognises=_recognises,
    parse=_parse,
)
