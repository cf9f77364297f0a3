"""Reader of (time in s, rate in Mbit/s) pairs, split by blanks, in both published conventions.

`pairs:solis` (the default; Solis Wi-Fi traces, iperf3 logs): row i is the rate from t[i] on, up to t[i+1]; times count from
the first row; the last row lasts for the median step. Nothing in the file is thrown away, and a hand-written file means the same.
`pairs:pensieve` (Pensieve's cooked traces: HSDPA Norway, FCC, Lumos5G): row i is the rate over (t[i-1], t[i]]; the first
row gives only the origin, its rate is never used, and the period is the last time. Row 1 starts at 0 in every cycle, also
where the first time is not 0, as Pensieve's own simulator does. Its 95 % payload factor and its noise are the player's, not the
file's, and are not applied. Nothing is interpolated. A rate of 0 is an outage.

The two cannot be told apart from the content; for equal steps they differ by a shift of one row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from traces.format import Format, Source, held_rows
from traces.numbers import is_number, like_oboe
from traces.trace import Trace

CONVENTIONS = ("solis", "pensieve")


def rows(source: Source) -> tuple[list[float], list[float]]:
    """Times in s, strictly rising from >= 0, and rates in bit/s. Raises TraceFormatError naming the first bad line."""
    times: list[float] = []
    rates: list[float] = []
    for number, line in enumerate(source.lines, start=1):
        if not line.strip():
            raise source.error(number, "empty line; every line holds a time in s and a rate in Mbit/s")
        cells = line.split()
        if len(cells) != 2:
            raise source.error(number, f"{len(cells)} column(s) where a time in s and a rate in Mbit/s were expected: {line!r}")
        try:
            time_s, rate_mbps = float(cells[0]), float(cells[1])
        except ValueError:
            raise source.error(number, f"{line!r} is not a pair of numbers") from None
        if not (math.isfinite(time_s) and math.isfinite(rate_mbps)):
            raise source.error(number, f"{line!r} is not a pair of finite numbers")
        if time_s < 0.0 or rate_mbps < 0.0:
            raise source.error(number, f"negative {'time' if time_s < 0.0 else 'rate'} in {line!r}")
        if times and time_s <= times[-1]:
            raise source.error(number, f"times must rise, but {time_s} s comes after {times[-1]} s")
        times.append(time_s)
        rates.append(rate_mbps * 1e6)
    return times, rates


def _recognises(lines: Sequence[str]) -> bool:
    first = next((line for line in lines if line.strip()), "")
    cells = first.split()
    return len(cells) == 2 and all(is_number(cell) for cell in cells) and not like_oboe(lines)


def _parse(source: Source, options: Mapping[str, str]) -> Trace:
    if len(options) > 1:
        raise source.error(None, "choose one of pairs:solis and pairs:pensieve")
    times, rates = rows(source)
    if "pensieve" in options:
        if len(times) < 2:
            raise source.error(len(times), "pairs:pensieve needs two rows, because the first gives only the time origin")
        return Trace(source.name, (0.0, *times[1:-1]), {"rate_bps": tuple(rates[1:])}, times[-1])
    return held_rows(source, [time_s - times[0] for time_s in times], {"rate_bps": rates})


read = Format(
    name="pairs",
    summary="time in s and rate in Mbit/s per line, split by blanks; pairs:solis (from t on) or pairs:pensieve (up to t)",
    recognises=_recognises,
    parse=_parse,
    flags=CONVENTIONS,
)
