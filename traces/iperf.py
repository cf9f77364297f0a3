"""Readers and writers of iperf3's interval reports: the CSV of the SIGCOMM 2021 5G study, and iperf3's own JSON (`iperf3 -J`).

CSV: `_start`, `_end` in s and `bits_per_second` of each interval; parallel flows merged. JSON: `intervals[].sum`. Times count
from the first interval; where one is missing the one before holds on, one that is there twice counts once, one of 0 is a stall.
The direction is not in the file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence

from traces.format import Format, Source, held_rows
from traces.numbers import document, finite
from traces.trace import Trace

_COLUMNS = ("_start", "_end", "bits_per_second")
Interval = tuple[int | None, object, object, object]
"""Line in the file, start, end, bits per second."""


def _trace(source: Source, intervals: Iterable[Interval]) -> Trace:
    times: list[float] = []
    rates: list[float] = []
    end_s = origin = 0.0
    before: tuple[object, ...] = ()
    for line, start, end, rate in intervals:
        start_s, this_end_s = finite(source, line, "start", start), finite(source, line, "end", end)
        if (start, end, rate) == before:
            continue
        before = (start, end, rate)
        origin = origin if times else start_s
        if this_end_s <= start_s:
            raise source.error(line, f"an interval from {start_s:g} to {this_end_s:g} s has no length")
        if times and start_s < end_s - 1e-3:
            raise source.error(line, f"intervals must not overlap, but {start_s:g} s lies before {end_s:g} s")
        if not times or start_s - origin > times[-1]:
            times.append(start_s - origin)
            rates.append(finite(source, line, "bits per second", rate))
        end_s = this_end_s
    if not times:
        raise source.error(None, "no interval in the file")
    return held_rows(source, times, {"rate_bps": rates}, end_s - origin)


def _parse_csv(source: Source, options: Mapping[str, str]) -> Trace:
    table = csv.reader(line.rstrip("\r") for line in source.lines)
    header = next(table)
    if missing := [name for name in _COLUMNS if name not in header]:
        raise source.error(1, f"no column {missing[0]}")
    places = [header.index(name) for name in _COLUMNS]

    def intervals() -> Iterable[Interval]:
        for number, cells in enumerate(table, start=2):
            if len(cells) != len(header):
                raise source.error(number, f"{len(cells)} cell(s) where the header has {len(header)} columns")
            start, end, rate = (cells[place] for place in places)
            yield number, start, end, rate

    return _trace(source, intervals())


def _parse_json(source: Source, options: Mapping[str, str]) -> Trace:
    found = document(source)
    if isinstance(found.get("error"), str):
        raise source.error(None, f"iperf3 reported an error instead of a test: {found['error']}")
    reports = found.get("intervals")
    if not isinstance(reports, list):
        raise source.error(None, 'no list "intervals"')

    def intervals() -> Iterable[Interval]:
        for place, report in enumerate(reports):
            total = report.get("sum") if isinstance(report, dict) else None
            if not isinstance(total, dict):
                raise source.error(None, f'interval {place}: no object "sum"')
            yield None, total.get("start"), total.get("end"), total.get("bits_per_second")

    return _trace(source, intervals())


def write_csv(trace: Trace) -> str:
    """An interval for every row. Raises ValueError for a trace without a rate."""
    return "_start,_end,bits_per_second\n" + "".join(f"{a:.9g},{b:.9g},{rate:.9g}\n" for a, b, rate in trace.rates())


def write_json(trace: Trace) -> str:
    """An interval for every row, in the shape of `iperf3 -J`. Raises ValueError for a trace without a rate."""
    reports = [{"sum": {"start": a, "end": b, "bits_per_second": rate}} for a, b, rate in trace.rates()]
    return json.dumps({"start": {"version": "iperf 3"}, "intervals": reports}, indent=1) + "\n"


def _recognises_csv(lines: Sequence[str]) -> bool:
    cells = next((line.strip().split(",") for line in lines if line.strip()), [])
    return {*_COLUMNS} <= set(cells)


def _recognises_json(lines: Sequence[str]) -> bool:
    text = "\n".join(lines)
    return text.lstrip().startswith("{") and ('"iperf' in text or '"intervals"' in text)


read_csv = Format(
    name="iperf-csv",
    summary="intervals of iperf3 as CSV: _start, _end, bits_per_second",
    recognises=_recognises_csv,
    parse=_parse_csv,
)
read_json = Format(name="iperf-json", summary="what iperf3 -J prints", recognises=_recognises_json, parse=_parse_json)
