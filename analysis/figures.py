"""Figures over one run folder: latency over the trace, where the time goes, speed-up. Frames come from `testbed.report`.

Colour-blind safe (seaborn's "colorblind" palette), print size. A figure function returns its matplotlib figure and saves nothing.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from testbed.report import Run

PARTS = {
    "transfer_access_s": "to the edge",
    "compute_device_s": "device",
    "compute_edge_s": "edge",
    "transfer_lan_s": "tiles on the LAN",
    "transfer_backbone_s": "to the cloud",
    "compute_cloud_s": "cloud",
    "transfer_return_s": "answer",
    "queue_s": "queue",
}
"""Columns of a latency breakdown, with the words of its legend."""


def style() -> None:
    """Print-size defaults for all figures of this module."""
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", rc={"figure.dpi": 110, "savefig.dpi": 200})


def planners_of(run: Run) -> list[str]:
    """Planners in the order in which the run had them."""
    return [str(name) for name in run.manifest["planners"]]


def link_rate(run: Run, model: str, planner: str, link: str = "backbone", direction: str = "up") -> pd.DataFrame:
    """Steps of a link's true rate while one planner ran: columns at_s, rate_mbps."""
    rows = run.links[
        (run.links["model"] == model)
        & (run.links["planner"] == planner)
        & (run.links["link"] == link)
        & (run.links["direction"] == direction)
        & (run.links["kind"] == "state")
    ]
    return pd.DataFrame({"at_s": rows["at_s"], "rate_mbps": rows["rate_bps"] / 1e6}).sort_values("at_s")


def plan_changes(run: Run, model: str, planner: str) -> pd.DataFrame:
    """Plans that were installed after the first one, with their time and reason."""
    plans = run.plans
    chosen = (plans["model"] == model) & (plans["planner"] == planner) & plans["installed"] & (plans["reason"] != "first")
    return plans[chosen]


def timeline(run: Run, model: str, planners: list[str] | None = None) -> Figure:
    """Latency of every request over the replay, the backbone's rate below it, and a mark where a planner changed its plan."""
    planners = planners or planners_of(run)
    rows = run.answered[run.answered["model"] == model]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.6, 3.9), sharex=True, height_ratios=[3, 1.4], layout="constrained")
    colours = dict(zip(planners_of(run), sns.color_palette(), strict=False))
    for planner in planners:
        one = rows[rows["planner"] == planner].sort_values("submitted_s")
        top.plot(one["submitted_s"], one["latency_s"] * 1e3, "o-", ms=3.5, lw=1, label=planner, color=colours[planner])
        for at_s in plan_changes(run, model, planner)["at_s"]:
            top.axvline(at_s, color=colours[planner], lw=0.9, ls=":")
    top.set(ylabel="latency (ms)", title=f"{model}: latency while the backbone changes (dotted: a new plan)", ylim=(0, None))
    figure.legend(ncols=len(planners), loc="outside upper center", frameon=False)
    longest = max(planners, key=lambda p: rows[rows["planner"] == p]["submitted_s"].max())
    rate = link_rate(run, model, longest)
    bottom.step(rate["at_s"], rate["rate_mbps"], where="post", color="0.35", lw=1.2)
    end = float(rows["submitted_s"].max())
    bottom.set(xlabel="time since the replay began (s)", ylabel="backbone\n(Mbit/s)", ylim=(0, None), xlim=(-0.3, end + 1.0))
    return figure


def breakdown(run: Run) -> Figure:
    """Mean parts of a latency, per model and planner. Parts may overlap in time, so a bar can exceed the latency."""
    means = run.answered.groupby(["model", "planner"], sort=False)[list(PARTS)].mean() * 1e3
    models = list(dict.fromkeys(means.index.get_level_values(0)))
    figure, axes = plt.subplots(1, len(models), figsize=(3.4 * len(models) + 1.2, 3.0), squeeze=False, layout="constrained")
    used = [column for column in PARTS if means[column].max() > 0.05]
    for axis, model in zip(axes[0], models, strict=True):
        one: Any = means.loc[model]
        left = pd.Series(0.0, index=one.index)
        for column, colour in zip(used, sns.color_palette("colorblind", len(used)), strict=True):
            axis.barh(one.index, one[column], left=left, color=colour, label=PARTS[column], height=0.65)
            left = left + one[column]
        axis.set(title=model, xlabel="mean time (ms)")
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return figure


def comparison(run: Run) -> pd.DataFrame:
    """Per model and planner: requests, median and 95th percentile of latency (ms), backbone kB per inference, speed-up over the
    slowest planner, and whether every answer was the whole model's (lossy planners: no value), and the share that finds
    the input's label."""
    groups = run.answered.groupby(["model", "planner"], sort=False)
    table = pd.DataFrame(
        {
            "requests": groups.size(),
            "p50_ms": groups["latency_s"].median() * 1e3,
            "p95_ms": groups["latency_s"].quantile(0.95) * 1e3,
            "backbone_kB": groups["backbone_bytes"].mean() / 1e3,
            "all_correct": groups["correct"].all().where(groups["correct"].count() > 0),  # lossy planners promise nothing
            "accuracy": groups["label_correct"].mean(),
        }
    )
    slowest = table.groupby(level="model")["p50_ms"].transform("max")
    table.insert(3, "speed_up", slowest / table["p50_ms"])
    return table
