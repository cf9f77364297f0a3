"""Bar charts over models, networks or any other column: speed-up, backbone bytes, regret; and where a latency's time goes."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis import tables
from analysis.figures.style import (
    COLUMN_IN,
    INK,
    LEGS,
    PAGE_IN,
    QUEUE,
    SMALL,
    TIERS,
    axes_of,
    legend_above,
    looks,
    single,
    styled,
)
from testbed.errors import InputError

PARTS: dict[str, tuple[str, str, str]] = {
    "compute_device_s": ("device", TIERS["device"], ""),
    "transfer_access_s": ("to the edge", LEGS["access"], "/////"),
    "compute_edge_s": ("edge", TIERS["edge"], ""),
    "transfer_lan_s": ("tiles on the LAN", LEGS["lan"], "/////"),
    "transfer_backbone_s": ("to the cloud", LEGS["backbone"], "/////"),
    "compute_cloud_s": ("cloud", TIERS["cloud"], ""),
    "transfer_return_s": ("answer", LEGS["return"], "/////"),
    "queue_s": ("queue", QUEUE, ""),
}
"""Columns of a latency's breakdown: words, colour, hatch (transfers are hatched)."""


@styled
def speedup_bars(speedups: pd.DataFrame, *, x: str = "model", ax: Axes | None = None, legend: bool = True) -> Axes:
    """Speed-ups (rows of `tables.speedups`) of every planner, grouped by column `x`. A line marks 1, the planner that all are
    compared to. Raises InputError where a planner has two figures for one `x`: choose, or use `panels`."""
    ax = _grouped(speedups, x, "speedup", ax, lambda value: f"{value:.3g}")
    ax.axhline(1.0, color=INK, lw=0.7, zorder=3)
    ax.set(ylabel="speed-up (times)")
    return _finished(ax, legend)


@styled
def backbone_bars(frame: pd.DataFrame, *, x: str = "model", ax: Axes | None = None, legend: bool = True) -> Axes:
    """Mean application bytes of an inference towards the cloud (inferences or cells), grouped by column `x`."""
    table = tables.means(frame, "backbone_bytes", [x, "planner"])
    table["kilobytes"] = table["backbone_bytes"] / 1e3
    ax = _grouped(table, x, "kilobytes", ax, lambda value: f"{value:.3g}")
    ax.set(ylabel="backbone (kB per inference)")
    return _finished(ax, legend)


@styled
def regret_bars(regrets: pd.DataFrame, *, x: str = "model", ax: Axes | None = None, legend: bool = True) -> Axes:
    """Regrets (rows of `tables.regrets`) in percent, grouped by column `x`; below 0: faster than the yardstick."""
    table = regrets.assign(percent=regrets["regret"] * 100.0)
    ax = _grouped(table, x, "percent", ax, lambda value: f"{value:.0f}" if abs(value) >= 10.0 else f"{round(value, 1) + 0.0:g}")
    ax.axhline(0.0, color=INK, lw=0.7, zorder=3)
    ax.set(ylabel="regret (%)")
    return _finished(ax, legend)


@styled
def breakdown(frame: pd.DataFrame, *, by: str = "planner", ax: Axes | None = None, legend: bool = True) -> Axes:
    """Mean parts of one model's latency (inferences or cells), stacked, a bar for each value of `by`: compute by tier, transfers
    (hatched) by leg, queue. Parts may overlap in time, so a bar can be longer than the latency."""
    single(frame, "model", "breakdown")
    if by != "planner":
        single(frame, "planner", "breakdown")
    table = pd.concat([tables.means(frame, part, [by]).set_index(by)[part] for part in PARTS], axis="columns") * 1e3
    ax = axes_of(ax, height=0.9 + 0.24 * len(table))
    left = pd.Series(0.0, index=table.index)
    longest = float(table.sum(axis="columns").max())
    for part, (words, colour, hatch) in PARTS.items():
        if table[part].max() <= 1e-4 * longest:
            continue
        names = [str(name) for name in table.index]
        ax.barh(names, table[part], left=left, height=0.68, label=words, color=colour, hatch=hatch, edgecolor="white", lw=0.4)
        left = left + table[part]
    ax.set(xlabel="mean time (ms)", xlim=(0.0, None))
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    if legend:
        legend_above(ax)
    return ax


def _grouped(table: pd.DataFrame, x: str, value: str, ax: Axes | None, worded: Callable[[float], str]) -> Axes:
    """Bars of a value: a group for each `x`, a bar for each planner, its figure above it where there is room."""
    rows = table.assign(**{x: table[x].astype(str), "planner": table["planner"].astype(str)})
    if rows.duplicated([x, "planner"]).any():
        others = table.drop(columns=[x, "planner"]).select_dtypes(exclude="number").columns
        for column in others:
            single(table, str(column), f"a bar chart over {x}")
        raise InputError(f"a bar chart over {x}: a planner has several figures for one {x}; choose with only(), or use panels()")
    found = looks(rows["planner"].unique(), "planner")
    bars = len(rows)
    ax = axes_of(ax, width=COLUMN_IN if bars <= 12 else PAGE_IN)
    sns.barplot(
        rows,
        x=x,
        y=value,
        hue="planner",
        palette={name: one.colour for name, one in found.items()},
        saturation=1.0,
        errorbar=None,
        ax=ax,
    )
    if (own := ax.get_legend()) is not None:
        own.remove()
    room = 0.8 * ax.get_window_extent().width / ax.figure.dpi / (rows[x].nunique() * len(found))
    for container, (name, one) in zip((c for c in ax.containers if isinstance(c, BarContainer)), found.items(), strict=True):
        container.set_label(name)
        for bar in container.patches:
            bar.set(**one.bar)
        size = min(SMALL, room * 72 / 2.2)
        if size >= 4.5:
            ax.bar_label(container, fmt=worded, size=size, padding=1.0)
    ax.margins(y=0.12)
    ax.set(xlabel={"model": "", "planner": ""}.get(x, x))
    ax.grid(axis="x", visible=False)
    return ax


def _finished(ax: Axes, legend: bool) -> Axes:
    if legend:
        legend_above(ax)
    return ax


@styled
def gain_dots(gains: pd.DataFrame, marks: tuple[float, float] = (3.4, 3.68)) -> Figure:
    """D3's gain over every other system, a dot for each case (`analysis.comparison.against`): time at the left, backbone bytes at
    the right, with a dotted line at each claim and a solid one where both are equal. Infinite gains are at the right margin."""
    names, backbones = list(gains["planner"].unique()), list(gains["backbone"].unique())
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_IN, 0.8 + 0.21 * len(names)), sharey=True, layout="constrained")
    for ax, column, mark, words in zip(
        axes, ("time", "bytes"), marks, ("time / D3's time", "backbone bytes / D3's"), strict=True
    ):
        finite = gains[column][np.isfinite(gains[column]) & (gains[column] > 0)]
        low, high = min(0.4, float(finite.min()) * 0.8), float(finite.max()) * 1.6
        for i, (backbone, look) in enumerate(looks(backbones, "backbone").items()):
            one = gains[gains["backbone"] == backbone]
            places = one["planner"].map(names.index) + (i - (len(backbones) - 1) / 2) * 0.17
            shape = {"color": look.colour, "marker": look.line["marker"], "markersize": 3.0, "linestyle": "none"}
            ax.plot(one[column].clip(low, high), places, label=backbone, **shape)
        ax.axvline(1.0, color="0.3", lw=0.8)
        ax.axvline(mark, color="0.3", lw=0.8, ls=":")
        ax.set(xscale="log", xlim=(low * 0.9, high * 1.1), xlabel=words, yticks=range(len(names)), yticklabels=names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.grid(axis="y", visible=False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(backbones))
    return figure
