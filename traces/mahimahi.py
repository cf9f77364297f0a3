"""Reader of mahimahi packet-delivery traces (the files of `mm-link`): one opportunity of 1500 bytes a line, in ms.

Grammar and edge cases are those of mahimahi's link_queue.cc: times never fall, equal times add up, a gap is an outage, the
last time is the period, and blank lines, decimals, comments or carriage returns are refused. An opportunity's 1500 bytes
are spread over the bin that ends at or after it, so each period carries exactly `lines x 1500` bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from traces.format import Format, Source
from traces.quantity import duration_s
from traces.trace import Trace

OPPORTUNITY_BYTES = 1500
"""Bytes of one line (mahimahi counts 1504 with its TUN header; 1500 is what its documentation and all users of traces mean)."""

DEFAULT_BIN_S = 0.1
_INTEGER = re.compile(r"^[ \t]*\+?[0-9]+$")


def opportunities(source: Source) -> list[int]:
    """Times in ms, never falling, the last above 0. Raises TraceFormatError naming the first bad line."""
    times: list[int] = []
    for number, line in enumerate(source.lines, start=1):
        if not _INTEGER.match(line):
            raise source.error(number, _complaint(line))
        time_ms = int(line)
        if times and time_ms < times[-1]:
            raise source.error(number, f"times must not fall, but {time_ms} ms comes after {times[-1]} ms")
        times.append(time_ms)
    if not times:
        raise source.error(None, "the file is empty")
    if times[-1] == 0:
        raise source.error(len(times), "the last time is the trace's period and must be above 0 ms")
    return times


def _complaint(line: str) -> str:
    if not line.strip():
        return "empty line; every line holds one time in ms (also remove blank lines at the end)"
    if line.endswith("\r"):
        return "carriage return at the end; the file has Windows line ends (CRLF), convert it to plain newlines"
    if re.match(r"^\s*-[0-9]+$", line):
        return f"negative time {line.strip()}"
    if re.match(r"^\s*[0-9]*\.[0-9]*\s*$", line):
        return f"decimal number {line.strip()}; times are whole milliseconds"
    return f"{line!r} is not a whole number of milliseconds (comments and trailing blanks are not allowed)"


def binned(name: str, times_ms: Sequence[int], bin_s: float = DEFAULT_BIN_S) -> Trace:
    """Rates over bins of `bin_s` seconds. The last bin may be shorter; a cycle's bytes are exact whatever the bin.

    An opportunity at t counts for the bin (a, b] that holds t; one at 0 for the first.
    """
    period_s = times_ms[-1] / 1000.0
    bin_ms = bin_s * 1000.0
    count = max(1, -(-times_ms[-1] // bin_ms).__trunc__())
    edges_ms = [min(k * bin_ms, float(times_ms[-1])) for k in range(count + 1)]
    per_bin = [0] * count
    row = 0
    for time_ms in times_ms:
        while row + 1 < count and time_ms > edges_ms[row + 1]:
            row += 1
        per_bin[row] += 1
    rates = (
        lines * OPPORTUNITY_BYTES * 8000.0 / (end - start)
        for lines, start, end in zip(per_bin, edges_ms, edges_ms[1:], strict=False)
    )
    return Trace(name, tuple(edge / 1000.0 for edge in edges_ms[:-1]), {"rate_bps": tuple(rates)}, period_s)


def _recognises(lines: Sequence[str]) -> bool:
    first = next((line for line in lines if line.strip()), "")
    return re.fullmatch(r"\s*[+-]?[0-9]+(\.[0-9]*)?\s*", first) is not None


def _parse(source: Source, options: Mapping[str, str]) -> Trace:
    bin_s = DEFAULT_BIN_S
    if "bin" in options:
        try:
            bin_s = duration_s(options["bin"])
        except ValueError as error:
            raise source.error(None, f"option bin: {error}") from error
        if bin_s < 0.001:
            raise source.error(None, "option bin: below the format's resolution of 1 ms")
    return binned(source.name, opportunities(source), bin_s)


read = Format(
    name="mahimahi",
    summary="one whole number of ms per line: an opportunity to deliver 1500 bytes",
    recognises=_recognises,
    parse=_parse,
    options={"bin": "width of the bins that rates are averaged over (default 100ms)"},
)
