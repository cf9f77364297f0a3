"""Reader and writer of Oboe's traces: `ms kbit/s`, two lines for each chunk, its start and its end, with one rate.

Between chunks the authors interpolate linearly; here a gap is one row with the mean of the rates around it, which carries the
same bytes. Times count from the first chunk's start. (Akhtar et al., SIGCOMM 2018.)
"""

from __future__ import annotations

from collections.abc import Mapping

from traces.format import Format, Source
from traces.numbers import finite, like_oboe, rows_of
from traces.trace import Trace


def _parse(source: Source, options: Mapping[str, str]) -> Trace:
    table: list[tuple[float, float]] = []
    for number, line in enumerate(source.lines, start=1):
        cells = line.split()
        if len(cells) != 2:
            raise source.error(number, f"a time in ms and a rate in kbit/s were expected: {line!r}")
        time_ms, rate_kbps = finite(source, number, "time", cells[0]), finite(source, number, "rate", cells[1])
        if table and time_ms < table[-1][0]:
            raise source.error(number, f"times must not fall, but {time_ms} ms comes after {table[-1][0]} ms")
        table.append((time_ms, rate_kbps))
    if len(table) % 2:
        raise source.error(len(table), "the last chunk has a start and no end: the file was cut off")
    pieces: list[tuple[float, float]] = []
    end_ms = table[0][0]
    for row in range(0, len(table), 2):
        (start, rate), (end, again) = table[row], table[row + 1]
        if rate != again:
            raise source.error(row + 2, f"a chunk has one rate, but it starts with {rate:g} and ends with {again:g} kbit/s")
        if start > end_ms:
            pieces.append((start - end_ms, (table[row - 1][1] + rate) / 2.0))
        pieces.append((end - start, rate))
        end_ms = end
    return rows_of(source, [(length / 1e3, {"rate_bps": rate * 1e3}) for length, rate in pieces])


def write(trace: Trace) -> str:
    """A chunk for every row. Raises ValueError for a trace without a rate."""
    lines = []
    for start, end, rate in trace.rates():
        lines += [f"{start * 1e3:.10g} {rate / 1e3:.10g}", f"{end * 1e3:.10g} {rate / 1e3:.10g}"]
    return "\n".join(lines) + "\n"


read = Format(
    name="oboe",
    summary="time in ms and rate in kbit/s, two lines for each chunk",
    recognises=like_oboe,
    parse=_parse,
)
