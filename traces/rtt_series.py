"""Reader and writer of MECPerf's RTT series: one line of `YYYY-MM-DD HH:MM:SS.ffffff_RTT`, comma separated, RTT in ms; no rate.

A stamp is the end of its sample, and samples are back to back. The one-way delay is half the RTT. The first sample after idle is
large on LTE (the radio wakes up): it is in the trace like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from traces.format import Format, Source
from traces.numbers import finite, rows_of
from traces.trace import Trace

_SAMPLE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?)_(.+)$")


def _parse(source: Source, options: Mapping[str, str]) -> Trace:
    pieces: list[tuple[float, dict[str, float]]] = []
    before: datetime | None = None
    for number, line in enumerate(source.lines, start=1):
        for place, sample in enumerate(line.strip().split(","), start=1):
            found = _SAMPLE.match(sample.strip())
            if not found:
                raise source.error(number, f"sample {place}: {sample[:40]!r} is not YYYY-MM-DD HH:MM:SS.ffffff_RTT")
            try:
                moment = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
            except ValueError as error:
                raise source.error(number, f"sample {place}: {error}") from error
            rtt_s = finite(source, number, f"sample {place}: RTT", found[2]) / 1e3
            seconds = rtt_s if before is None else (moment - before).total_seconds()
            if seconds < 0.0:
                raise source.error(number, f"sample {place}: stamps must not fall")
            pieces.append((seconds, {"delay_s": rtt_s / 2.0}))
            before = moment
    return rows_of(source, pieces)


def write(trace: Trace) -> str:
    """A sample at the end of every row. Raises ValueError for a trace without a delay."""
    if "delay_s" not in trace.columns:
        raise ValueError(f"trace {trace.name!r} has no delay to write")
    start = datetime(2000, 1, 1, tzinfo=UTC)
    samples = []
    for end_s, delay_s in zip((*trace.times_s[1:], trace.period_s), trace.columns["delay_s"], strict=True):
        moment = start + timedelta(seconds=end_s)
        samples.append(f"{moment:%Y-%m-%d %H:%M:%S.%f}_{delay_s * 2e3:.9g}")
    return ",".join(samples)


def _recognises(lines: Sequence[str]) -> bool:
    first = next((line for line in lines if line.strip()), "")
    return re.match(r"^\s*\d{4}-\d\d-\d\d[ T][\d:.]+_", first) is not None


read = Format(
    name="rtt",
    summary="RTT series of MECPerf: stamps and RTTs in ms, comma separated",
    recognises=_recognises,
    parse=_parse,
)
