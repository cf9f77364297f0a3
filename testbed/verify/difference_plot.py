"""The picture of two backends' differences: each request's latency in both, and the distribution of the differences.

Needs matplotlib (the extra "analysis"); what is drawn comes from `testbed.verify.differences`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd

from testbed.errors import InputError


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def save(requests: pd.DataFrame, names: tuple[str, str], limit: float, path: Path) -> None:
    """Write a picture of measured requests (rows as `differences.paired` gives them). Raises InputError without matplotlib."""
    if not can_plot():
        raise InputError("a plot needs matplotlib: pip install 'd3-testbed[analysis]'")
    from matplotlib.figure import Figure

    shown = requests[~requests["warmup"].astype(bool) & requests["latency_difference"].notna()]
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    scatter, curve = figure.subplots(1, 2)
    mine, reference = names
    for (trace, planner), rows in shown.groupby(["trace", "planner"], sort=False):
        label = f"{planner}, {trace}" if trace else str(planner)
        same = rows[rows["same_plan"]]
        (points,) = scatter.plot(same["latency_s_reference"] * 1e3, same["latency_s"] * 1e3, ".", ms=4, label=label)
        other = rows[~rows["same_plan"]]
        scatter.plot(
            other["latency_s_reference"] * 1e3, other["latency_s"] * 1e3, "x", ms=5, color=points.get_color(), label="_other plan"
        )
        sizes = np.sort(np.abs(rows["latency_difference"].to_numpy(float))) * 100.0
        curve.step(sizes, np.arange(1, len(sizes) + 1) / len(sizes), where="post", color=points.get_color())
    if len(shown):
        every = np.concatenate([shown[name].to_numpy(float) for name in ("latency_s", "latency_s_reference")]) * 1e3
        ends = [every.min(), every.max()]
        scatter.plot(ends, ends, color="0.7", lw=0.8, zorder=0)
        scatter.legend(fontsize=6, frameon=False)
    scatter.set(xscale="log", yscale="log", xlabel=f"latency on {reference} (ms)", ylabel=f"latency on {mine} (ms)")
    scatter.set_title("requests (×: another plan)", fontsize=9)
    curve.axvline(limit * 100.0, color="0.5", lw=0.8, ls="--")
    curve.set(xscale="symlog", xlim=(0.0, None), ylim=(0.0, 1.02), xlabel="difference of latency (%)", ylabel="share of requests")
    curve.set_title(f"dashed: limit of the median, {limit * 100:g} %", fontsize=9)
    figure.savefig(path, dpi=160)
