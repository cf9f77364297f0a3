"""Figures on a grid: how latency scales with a parameter, verdicts, and the phase diagram of decompositions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from analysis import tables
from analysis.figures.style import (
    BLUE,
    BROWN,
    COLUMN_IN,
    GREEN,
    INK,
    LEVELS,
    ORANGE,
    PAGE_IN,
    PURPLE,
    SKY,
    SMALL,
    YELLOW,
    axes_of,
    legend_above,
    looks,
    single,
    styled,
)
from testbed.errors import InputError

Floats = npt.NDArray[np.float64]

REGIONS: dict[str, str] = {
    "device": GREEN,
    "edge": BLUE,
    "cloud": ORANGE,
    "device + edge": SKY,
    "edge + cloud": PURPLE,
    "device + cloud": YELLOW,
    "device + edge + cloud": BROWN,
}
"""Colour of each combination of tiers in a phase diagram."""


@styled
def scaling(
    frame: pd.DataFrame, *, x: str = "topology.edges", y: str = "mean_s", ax: Axes | None = None, legend: bool = True
) -> Axes:
    """Mean latency of one model over a number such as that of edge hosts, a line for each planner; the shade spans seeds.

    `y`: a column in seconds of cells, or "mean_s" or "p50_s" of inferences. Raises InputError for several models, and for unknown
    columns."""
    single(frame, "model", "scaling")
    table = tables.means(frame, y, ["planner", x]).astype({x: float})
    ax = axes_of(ax)
    for name, found in looks(map(str, table["planner"].unique()), "planner").items():
        one = table[table["planner"] == name].sort_values(x)
        ax.plot(one[x], one[y] * 1e3, label=name, **found.line)
        if "seed" in frame.columns and frame["seed"].nunique() > 1:
            seeds = tables.means(frame[frame["planner"] == name], y, [x, "seed"]).astype({x: float}).groupby(x)[y]
            ax.fill_between(seeds.min().index, seeds.min() * 1e3, seeds.max() * 1e3, color=found.colour, alpha=0.15, lw=0.0)
    values = np.sort(table[x].unique())
    ax.set(xlabel=SCALES.get(x, x), ylabel="latency (ms)", ylim=(0.0, None), xticks=values)
    if legend:
        legend_above(ax)
    return ax


SCALES = {"topology.edges": "edge hosts", "topology.devices": "devices"}
"""Words for axes of `scaling`."""


@styled
def fidelity_matrix(fidelity: pd.DataFrame, *, ax: Axes | None = None, legend: bool = True) -> Axes:
    """Every invariant (column) of the backend and of every session (rows), coloured by its level, with its figure where that is
    not 0. Raises InputError without rows."""
    if fidelity.empty:
        raise InputError("fidelity_matrix: there are no invariants to draw (the run wrote no fidelity.json)")
    several = fidelity["run"].nunique() > 1
    session = (fidelity["model"] + ", " + fidelity["planner"]).fillna("whole run")
    rows = fidelity.assign(row=(fidelity["run"] + ": " + session) if several else session)
    names, invariants = list(dict.fromkeys(rows["row"])), list(dict.fromkeys(rows["invariant"]))
    rank = list(LEVELS)
    levels = rows.pivot_table(index="row", columns="invariant", values="level", aggfunc=lambda found: max(map(rank.index, found)))
    values = rows.pivot_table(index="row", columns="invariant", values="value", aggfunc="max")
    levels, values = levels.reindex(index=names, columns=invariants), values.reindex(index=names, columns=invariants)
    ax = axes_of(ax, PAGE_IN, 1.15 + 0.2 * len(names))
    shown = np.ma.masked_invalid(levels.to_numpy(dtype=float))
    ax.pcolormesh(shown, cmap=ListedColormap(list(LEVELS.values())), vmin=-0.5, vmax=2.5, edgecolors="white", lw=1.0)
    for i, row in enumerate(values.to_numpy(dtype=float)):
        for j, value in enumerate(row):
            if not np.isnan(value) and value != 0.0:
                ax.text(j + 0.5, i + 0.5, f"{value:.2g}", ha="center", va="center", size=SMALL, color=INK)
    ax.grid(False)
    ax.set(xticks=np.arange(len(invariants)) + 0.5, yticks=np.arange(len(names)) + 0.5, ylim=(len(names), 0))
    ax.set_xticklabels([name.replace("_", " ") for name in invariants], rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticklabels(names)
    ax.tick_params(length=0)
    if legend:
        legend_above(ax, {level: Patch(facecolor=colour) for level, colour in LEVELS.items()})
    return ax


@styled
def phase_diagram(grid: pd.DataFrame, *, ax: Axes | None = None, legend: bool = True, gain: bool = True) -> Axes:
    """A grid of `phase.grid` as a map over access and backbone rate: coloured by the tiers that compute in the chosen plan, with
    contours of its gain over the best single tier where `gain` holds. Raises InputError for several models or planners, and for
    rates that do not form a grid."""
    model, planner = single(grid, "model", "phase_diagram"), single(grid, "planner", "phase_diagram")
    if grid.duplicated(["access_bps", "backbone_bps"]).any():
        raise InputError("phase_diagram: two rows have the same pair of rates")
    numbers = {name: i for i, name in enumerate(REGIONS)}
    table = grid.assign(region=grid["tiers"].map(numbers)).pivot(
        index="backbone_bps", columns="access_bps", values=["region", "gain"]
    )
    if table.isna().any(axis=None) or min(table["region"].shape) < 2:
        raise InputError("phase_diagram needs a full grid of at least two access rates and two backbone rates")
    x, y = table["region"].columns.to_numpy(float) / 1e6, table["region"].index.to_numpy(float) / 1e6
    ax = axes_of(ax, COLUMN_IN, 3.0)
    ax.pcolormesh(
        log_edges(x),
        log_edges(y),
        table["region"].to_numpy(float),
        cmap=ListedColormap(list(REGIONS.values())),
        vmin=-0.5,
        vmax=len(REGIONS) - 0.5,
        rasterized=True,
        alpha=0.75,
        lw=0.0,
    )
    ax.set(
        xscale="log", yscale="log", xlabel="access rate (Mbit/s)", ylabel="backbone rate (Mbit/s)", title=f"{model}, {planner}"
    )
    ax.grid(False)
    most = float(grid["gain"].max())
    levels = [level for level in (1.1, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0) if level < most]
    if gain and levels:
        lines = ax.contour(x, y, table["gain"].to_numpy(float), levels=levels, colors=INK, linewidths=0.6)
        ax.clabel(lines, fmt=lambda level: f"{level:g}×", fontsize=SMALL)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if legend:
        there = set(grid["tiers"])
        legend_above(ax, {name: Patch(facecolor=colour, alpha=0.75) for name, colour in REGIONS.items() if name in there})
    return ax


def log_edges(centres: Floats) -> Floats:
    """Borders of cells around logarithmic centres."""
    logs = np.log(centres)
    inner = (logs[1:] + logs[:-1]) / 2
    edges: Floats = np.exp(np.concatenate([[2 * logs[0] - inner[0]], inner, [2 * logs[-1] - inner[-1]]]))
    return edges


@styled
def halo_lines(halo: pd.DataFrame) -> Figure:
    """Work of tiles over that of whole maps as a fused stack gets deeper (`analysis.tiles.halo`): a panel for each model, a line
    for each grid, strips dashed."""
    models, found = list(halo["model"].unique()), list(halo["grid"].unique())
    figure, axes = plt.subplots(1, len(models), figsize=(PAGE_IN, 2.3), sharey=True, squeeze=False, layout="constrained")
    colours = dict(zip(sorted(halo["tiles"].unique()), (GREEN, BLUE, ORANGE, PURPLE, BROWN), strict=False))
    for ax, model in zip(axes[0], models, strict=True):
        for grid in found:
            one = halo[(halo["model"] == model) & (halo["grid"] == grid)]
            dash = "--" if grid.startswith("1x") or grid.endswith("x1") else "-"
            ax.plot(one["depth"], one["work"], dash, color=colours[one["tiles"].iloc[0]], label=grid)
        ax.set(title=model, xlabel="vertices in the stack", ylim=(1.0, 6.0))
    axes[0][0].set_ylabel("work / whole maps'")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(found))
    return figure
