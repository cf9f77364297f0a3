"""Reader and writer of G-NetTrack Pro's CSV (Raca et al., MMSys 2020: 5G production data): a row for each event of a phone.

`DL_bitrate` (the default) or `UL_bitrate` (`gnettrack:up`) in kbit/s; rows of one second are averaged, and a second holds until
the next that has a row. "-" is a missing value. In logs of downloads the uplink column is the stream of acknowledgements.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import fmean

from traces.format import Format, Source, held_rows
from traces.numbers import finite
from traces.trace import Trace

COLUMN = {"down": "DL_bitrate", "up": "UL_bitrate"}
_STAMP = "%Y.%m.%d_%H.%M.%S"


def _parse(source: Source, options: Mapping[str, str]) -> Trace:
    if len(options) > 1:
        raise source.error(None, "choose one of gnettrack:down and gnettrack:up")
    wanted = COLUMN[next(iter(options), "down")]
    table = csv.reader(line.rstrip("\r") for line in source.lines)
    header = next(table)
    if missing := [name for name in ("Timestamp", wanted) if name not in header]:
        raise source.error(1, f"no column {missing[0]}")
    stamp_at, rate_at = header.index("Timestamp"), header.index(wanted)
    seconds: dict[float, list[float]] = {}
    start: datetime | None = None
    for number, cells in enumerate(table, start=2):
        if len(cells) != len(header):
            raise source.error(number, f"{len(cells)} cell(s) where the header has {len(header)} columns")
        try:
            moment = datetime.strptime(cells[stamp_at], _STAMP).replace(tzinfo=UTC)
        except ValueError:
            raise source.error(number, f"Timestamp: {cells[stamp_at]!r} is not YYYY.MM.DD_HH.MM.SS") from None
        if cells[rate_at] == "-":
            continue
        start = start or moment
        second = (moment - start).total_seconds()
        if seconds and second < next(reversed(seconds)):
            raise source.error(number, f"timestamps must not fall, but {cells[stamp_at]} comes after a later one")
        seconds.setdefault(second, []).append(finite(source, number, wanted, cells[rate_at]) * 1e3)
    if not seconds:
        raise source.error(None, f"no row has a {wanted}")
    times = list(seconds)
    return held_rows(source, times, {"rate_bps": [fmean(rates) for rates in seconds.values()]}, times[-1] + 1.0)


def write(trace: Trace) -> str:
    """A row for every second: its mean rate as `DL_bitrate`, in whole kbit/s. Raises ValueError for a trace without a rate."""
    lines = ["Timestamp,DL_bitrate,UL_bitrate"]
    start = datetime(2000, 1, 1, tzinfo=UTC)
    for second, rate in enumerate(trace.resampled("rate_bps", 1.0)):
        lines.append(f"{(start + timedelta(seconds=second)).strftime(_STAMP)},{round(rate / 1e3)},-")
    return "\n".join(lines) + "\n"


def _recognises(lines: Sequence[str]) -> bool:
    cells = next((line.strip().split(",") for line in lines if line.strip()), [])
    return "Timestamp" in cells and bool({*COLUMN.values()} & set(cells))


read = Format(
    name="gnettrack",
    summary="G-NetTrack Pro's CSV: Timestamp, DL_bitrate, UL_bitrate in kbit/s",
    recognises=_recognises,
    parse=_parse,
    flags=("down", "up"),
)
