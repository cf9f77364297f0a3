"""Figures of the maps in `analysis.structures`: which structure is best where, how much something gains, which cuts can pay.

A structure has the colour that it has in `phase_diagram`, and every region its letters as well: D device, E edge, C cloud.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from analysis.figures.grids import REGIONS, log_edges
from analysis.figures.style import BLUE, PAGE_IN, SMALL, VERMILION, columns_that_fit, styled

NONE = "none"
"""Where no plan will do."""
WORDS = {
    "access_mbps": "access (Mbit/s)",
    "backbone_mbps": "backbone (Mbit/s)",
    "edge_speed": "edge speed",
    "per_s": "requests a second",
}
"""Words for axes."""


def _tint(colour: str) -> tuple[float, float, float]:
    """Three quarters of a colour on white, so that lines and letters show."""
    red, green, blue = to_rgb(colour)
    return 0.25 + 0.75 * red, 0.25 + 0.75 * green, 0.25 + 0.75 * blue


def _letters(name: str) -> str:
    return "".join(tier[0].upper() for tier in name.split(" + ")) if name != NONE else "no plan"


@styled
def structure_maps(
    frame: pd.DataFrame,
    x: str,
    y: str,
    columns: str = "model",
    rows: str = "encoding",
    levels: Sequence[float] = (1.1, 1.5, 2.0, 3.0),
) -> Figure:
    """A map of `structure` over two logarithmic axes for every value of two columns, side by side; lines where the best
    single tier takes so many times as long (column `over_single`, where the frame has it)."""
    colours = {**{name: _tint(colour) for name, colour in REGIONS.items()}, NONE: (1.0, 1.0, 1.0)}
    names = [name for name in colours if name in set(frame["structure"])]
    figure, axes = _grid(frame, columns, rows)
    for axis, part in _panels(frame, axes, columns, rows):
        table = part.pivot(index=y, columns=x, values="structure")
        codes = table.map(names.index).to_numpy()
        palette = ListedColormap([colours[name] for name in names])
        at = log_edges(table.columns.to_numpy()), log_edges(table.index.to_numpy())
        axis.pcolormesh(*at, codes, cmap=palette, vmin=-0.5, vmax=len(names) - 0.5, rasterized=True)
        if "over_single" in part and part["over_single"].max() > levels[0]:
            gain = part.pivot(index=y, columns=x, values="over_single")
            lines = axis.contour(gain.columns, gain.index, gain.to_numpy(), levels=levels, colors="black", linewidths=0.5)
            axis.clabel(lines, fmt="%g×", fontsize=SMALL - 1)
        for code, name in enumerate(names):
            if (codes == code).mean() >= 0.02:
                i, j = middle(codes == code)
                box = {"facecolor": colours[name], "edgecolor": "none", "pad": 0.5}
                where = float(table.columns[j]), float(table.index[i])
                axis.text(*where, _letters(name), ha="center", va="center", size=SMALL, weight="bold", bbox=box, zorder=5)
    _words(axes, x, y)
    labels = [f"{_letters(name)}  {name}" if name != NONE else "no plan" for name in names]
    handles = [Patch(facecolor=colours[name], edgecolor="0.4", label=label) for name, label in zip(names, labels, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns_that_fit(labels, figure.get_figwidth()))
    return figure


@styled
def ratio_maps(
    frame: pd.DataFrame, value: str, x: str, y: str, label: str, columns: str = "model", rows: str = "encoding"
) -> Figure:
    """A map of a ratio of at least 1 over two logarithmic axes for every value of two columns, on one scale; a panel's largest is
    written into it."""
    figure, axes = _grid(frame, columns, rows, room=0.7)
    top = max(1.05, float(frame[value].max()))
    for axis, part in _panels(frame, axes, columns, rows):
        table = part.pivot(index=y, columns=x, values=value)
        at = log_edges(table.columns.to_numpy()), log_edges(table.index.to_numpy())
        mesh = axis.pcolormesh(*at, table.to_numpy(), cmap="Blues", vmin=1.0, vmax=top, rasterized=True)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
        most = f"max {table.to_numpy().max():.2f}×"
        axis.text(0.04, 0.96, most, transform=axis.transAxes, size=SMALL, va="top", bbox=box)
    _words(axes, x, y)
    figure.colorbar(mesh, ax=axes, label=label, shrink=0.8)
    return figure


@styled
def cut_savings(cuts: pd.DataFrame, pairs: Sequence[str] = ("device + edge", "edge + cloud")) -> Figure:
    """What a cut would send over what it gives up (`structures.cuts` with the float32 input); a cut below a line can pay."""
    frame = cuts[cuts["pair"].isin(pairs) & (cuts["layer"] > 0)]
    figure, axes = _grid(frame, "model", "pair")
    for axis, one in _panels(frame, axes, "model", "pair"):
        axis.plot(100 * one["given_up"], one["sent"], "o", color="0.15", ms=1.8, label="a cut behind one layer")
        end = 100 * (1 - one["delay"].iloc[0])
        for encoding, top, colour, dash in (("float32", 1.0, VERMILION, "-"), ("uint8", 0.25, BLUE, "--")):
            label = f"can pay below this, input as {encoding}"
            axis.plot([0, end], [top if end else 0, 0], dash, color=colour, lw=1.2, label=label)
        axis.set(ylim=(0, 1.55), xlim=(-4, 104))
    axes[-1][axes.shape[1] // 2].set_xlabel("share of the higher tier's saving that is given up (%)")
    for row in axes:
        row[0].set_ylabel("sent / float32 input")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def middle(inside: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of the point of a region that is farthest from all outside; of several, the one nearest their mean."""
    padded = np.pad(inside, 1)
    outside, points = np.argwhere(~padded), np.argwhere(padded)
    far = np.abs(points[:, None, :] - outside[None, :, :]).max(axis=2).min(axis=1)
    best = points[far == far.max()]
    i, j = best[np.abs(best - best.mean(axis=0)).sum(axis=1).argmin()] - 1
    return int(i), int(j)


def _grid(frame: pd.DataFrame, columns: str, rows: str, room: float = 0.0) -> tuple[Figure, npt.NDArray[Any]]:
    """Axes for every value of two columns; `room`: inches at the right for a scale."""
    across, down = frame[columns].nunique(), frame[rows].nunique()
    width = min(PAGE_IN, 1.9 * across + 0.6 + room)
    size = width, down * (0.3 + (width - 0.5 - room) / across * 0.95) + 0.75
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained")
    return figure, axes


def _panels(frame: pd.DataFrame, axes: npt.NDArray[Any], columns: str, rows: str) -> Iterator[tuple[Axes, pd.DataFrame]]:
    for i, low in enumerate(frame[rows].unique()):
        for j, high in enumerate(frame[columns].unique()):
            axes[i][j].set_title(f"{high}\n{low}", size=SMALL, pad=2.0)
            axes[i][j].tick_params(labelsize=SMALL)
            yield axes[i][j], frame[(frame[columns] == high) & (frame[rows] == low)]


def _words(axes: npt.NDArray[Any], x: str, y: str) -> None:
    for axis in axes.flat:
        axis.set(xscale="log", yscale="log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.minorticks_off()
        axis.grid(False)
    for axis in axes[-1]:
        axis.set_xlabel(WORDS[x], size=SMALL + 0.5)
    for row in axes:
        row[0].set_ylabel(WORDS[y], size=SMALL + 0.5)
