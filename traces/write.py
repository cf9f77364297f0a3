"""Writers: a trace as our CSV (every column), its rate as a mahimahi file (for `mm-link` and other players), or any by name.

Text in, text out; who writes files is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from traces import ghent, gnettrack, iperf, oboe, opennetlab, rtt_series, starlink
from traces.csv_columns import SCALES
from traces.mahimahi import OPPORTUNITY_BYTES
from traces.trace import Trace

_FILE_COLUMN = {"rate_bps": "rate_mbps", "delay_s": "delay_ms", "loss": "loss"}
_FILE_COLUMN |= {column: column for column in ("cpu_share", "requests_per_s")}


def to_csv(trace: Trace, comments: Sequence[str] = ()) -> str:
    """CSV text that `csv_columns` reads back to the same rows and period (9 significant digits)."""
    names = [_FILE_COLUMN[column] for column in trace.columns]
    lines = [f"# {comment}" for comment in comments]
    lines.append(",".join(["time_s", *names]))
    for row, time_s in enumerate(trace.times_s):
        cells = (f"{trace.columns[SCALES[name][0]][row] / SCALES[name][1]:.9g}" for name in names)
        lines.append(",".join([f"{time_s:.9g}", *cells]))
    lines.append(f"{trace.period_s:.9g}" + "," * len(names))
    return "\n".join(lines) + "\n"


def to_mahimahi(trace: Trace) -> str:
    """Mahimahi text for the trace's `rate_bps`.

    A running byte credit gives each ms its whole opportunities of 1500 bytes, so a period differs from the trace's own bytes
    by less than one opportunity; but the format's period is its last time, so where the last ms has no opportunity one is
    added there (one packet too many rather than a shorter period). Raises ValueError for a trace without a rate, or one
    shorter than 1 ms.
    """
    rates = trace.rates()
    period_ms = round(trace.period_s * 1000.0)
    if period_ms < 1:
        raise ValueError(f"trace {trace.name!r} is shorter than 1 ms")
    times: list[int] = []
    for time_ms, due in enumerate(_due_opportunities(rates, period_ms), start=1):
        times.extend([time_ms] * (due - len(times)))
    if not times or times[-1] != period_ms:
        times.append(period_ms)
    return "".join(f"{time_ms}\n" for time_ms in times)


def _due_opportunities(rows: Sequence[tuple[float, float, float]], period_ms: int) -> list[int]:
    """Whole opportunities due by the end of ms 1, 2, ..., from the integral of the rate."""
    rates = [rate for _, _, rate in rows]
    edges_ms = [start_s * 1000.0 for start_s, _, _ in rows] + [float(period_ms)]
    credit_bits = 0.0
    row = 0
    due: list[int] = []
    for end_ms in range(1, period_ms + 1):
        start_ms = float(end_ms - 1)
        while start_ms < end_ms:
            while row + 1 < len(rates) and edges_ms[row + 1] <= start_ms:
                row += 1
            until_ms = min(float(end_ms), edges_ms[row + 1]) if row + 1 < len(rates) else float(end_ms)
            credit_bits += rates[row] * (until_ms - start_ms) / 1000.0
            start_ms = until_ms
        # a hair of tolerance, so that rounding in the sum does not delay an opportunity that is due now
        due.append(int(credit_bits / (OPPORTUNITY_BYTES * 8) + 1e-6))
    return due


def to_pairs(trace: Trace) -> str:
    """Lines of seconds and Mbit/s, a row from its time on (`pairs:solis`); the last row lasts for the median step when read back.

    Raises ValueError for a trace without a rate.
    """
    return "".join(f"{start_s:.9g}\t{rate / 1e6:.9g}\n" for start_s, _, rate in trace.rates())


WRITERS: Mapping[str, Callable[[Trace], str]] = {
    "csv": to_csv,
    "mahimahi": to_mahimahi,
    "pairs": to_pairs,
    "oboe": oboe.write,
    "ghent": ghent.write,
    "gnettrack": gnettrack.write,
    "iperf-csv": iperf.write_csv,
    "iperf-json": iperf.write_json,
    "opennetlab": opennetlab.write,
    "rtt": rtt_series.write,
    "starlink": starlink.write,
}
"""Writers by the name of the format that reads what they write. All raise ValueError for a trace without the column they hold."""
