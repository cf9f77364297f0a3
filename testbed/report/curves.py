"""Piecewise-constant curves (traces, link states) in few figures, and in one line of block characters."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(times_s: Sequence[float], values: Sequence[float], end_s: float, width: int = 60) -> str:
    """Blocks for a piecewise-constant curve: value i holds from `times_s[i]` to the next time, the last to `end_s`."""
    means = binned(times_s, values, end_s, width)
    top = max(means, default=0.0)
    if top <= 0.0:
        return _BLOCKS[0] * len(means)
    return "".join(" " if m <= 0.0 else _BLOCKS[min(len(_BLOCKS) - 1, int(m / top * len(_BLOCKS) + 1e-9))] for m in means)


def binned(times_s: Sequence[float], values: Sequence[float], end_s: float, bins: int) -> list[float]:
    """Time-weighted mean of a piecewise-constant curve in equal bins from `times_s[0]` to `end_s`."""
    start_s = times_s[0]
    width_s = (end_s - start_s) / bins
    means = []
    for k in range(bins):
        low, high = start_s + k * width_s, start_s + (k + 1) * width_s
        row, total, at = bisect_right(times_s, low) - 1, 0.0, low
        while at < high:
            until = min(high, times_s[row + 1]) if row + 1 < len(times_s) else high
            total += values[row] * (until - at)
            at, row = until, row + 1
        means.append(total / width_s)
    return means


def summary(times_s: Sequence[float], values: Sequence[float], end_s: float) -> dict[str, float]:
    """Time-weighted mean, deviation and percentiles, the extremes, and the share of time at zero."""
    weights = np.diff(np.append(times_s, end_s))
    data = np.asarray(values, dtype=float)
    mean = float(np.average(data, weights=weights))
    order = np.argsort(data, kind="stable")
    passed = np.cumsum(weights[order]) / weights.sum()
    at = {f"p{q}": float(data[order][np.searchsorted(passed, q / 100 - 1e-12)]) for q in (5, 50, 95)}
    return {
        "mean": mean,
        "deviation": float(np.sqrt(np.average((data - mean) ** 2, weights=weights))),
        "min": float(data.min()),
        **at,
        "max": float(data.max()),
        "zero_share": float(weights[data == 0.0].sum() / weights.sum()),
    }
