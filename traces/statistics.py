"""The statistics by which links are compared, of a trace: mean, variation, autocorrelation and outages on a 1 s grid.

Defined as in the published figures that `presets.py` quotes, so that generated and recorded traces can be set beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from traces.trace import Trace

FLOOR_BPS = 50_000.0
OUTAGE = 0.05
"""An outage second has less than this share of the mean, or less than 50 kbit/s."""


@dataclass(frozen=True)
class Statistics:
    """Of one period. `cv`: standard deviation over mean; `outage_mean_s`, `outage_max_s`: how long outages last (or 0)."""

    mean_bps: float
    cv: float
    autocorrelation_1s: float
    autocorrelation_5s: float
    outage_share: float
    outage_mean_s: float
    outage_max_s: float


def statistics(trace: Trace) -> Statistics:
    """Of a trace's rate. Raises ValueError for a trace without one."""
    rates = trace.resampled("rate_bps", 1.0)
    mean = sum(rates) / len(rates)
    away = [rate - mean for rate in rates]
    square = sum(value * value for value in away)
    outages = [len(list(run)) for out, run in groupby(rate < max(FLOOR_BPS, OUTAGE * mean) for rate in rates) if out]

    def autocorrelation(lag: int) -> float:
        return sum(a * b for a, b in zip(away, away[lag:], strict=False)) / square if square else 0.0

    return Statistics(
        mean_bps=mean,
        cv=(square / len(rates)) ** 0.5 / mean if mean else 0.0,
        autocorrelation_1s=autocorrelation(1),
        autocorrelation_5s=autocorrelation(5),
        outage_share=sum(outages) / len(rates),
        outage_mean_s=sum(outages) / len(outages) if outages else 0.0,
        outage_max_s=float(max(outages, default=0)),
    )
