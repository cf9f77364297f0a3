"""One request through device, edges and cloud: a lane for each host, arrows for messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures.style import LEGS, PAGE_IN, QUEUE, SMALL, TIERS, axes_of, inches_wide, legend_above, single, styled
from analysis.frames import REQUEST
from testbed.errors import InputError
from testbed.report import units

LEG_COLOURS = dict(zip(LEGS, (TIERS["device"], TIERS["edge"], TIERS["cloud"], "0.45"), strict=True))

SEEN_S = 1e-6
"""Waiting that is worth drawing: a real scheduler takes nanoseconds."""


@dataclass(frozen=True)
class _Step:
    """A row of the frame; `tile` is None, words are empty and numbers 0 where it has nothing."""

    host: str
    peer: str
    tier: str
    leg: str
    vertices: str
    tile: int | None
    offset_s: float
    duration_s: float
    queue_s: float
    message_bytes: float


def _steps(frame: pd.DataFrame) -> Iterator[_Step]:
    words = [frame[name].fillna("").astype(str).tolist() for name in ("host", "peer", "tier", "leg", "vertices")]
    tiles = [None if pd.isna(tile) else int(tile) for tile in frame["tile"].tolist()]
    columns = ("offset_s", "duration_s", "queue_s", "message_bytes")
    numbers = [frame[name].fillna(0.0).astype(float).tolist() for name in columns]
    for host, peer, tier, leg, vertices, tile, *rest in zip(*words, tiles, *numbers, strict=True):
        yield _Step(host, peer, tier, leg, vertices, tile, *rest)


@styled
def gantt(steps: pd.DataFrame, *, ax: Axes | None = None, legend: bool = True) -> Axes:
    """Steps of one request (rows of `tables.one_request`), in milliseconds since the device started it.

    Bars where a host computed, in its tier's colour and named by its vertices; grey where work waited for a busy host; an arrow
    for each message, from the sender's lane to the receiver's, with its size where there is room.

    Raises InputError for steps of several requests, and for none.
    """
    if steps.empty:
        raise InputError("gantt: there are no steps to draw (runs of earlier versions, and sweeps in memory, keep none)")
    for column in ("run", *REQUEST):
        single(steps, column, "gantt")
    tiers = steps.set_index("host")["tier"].to_dict()
    order = ["device", "edge", "cloud"]
    hosts = sorted(
        {*steps["host"], *steps["peer"].dropna(), *steps["device"]},
        key=lambda host: (order.index(tiers.get(host, "device")), host),
    )
    lane = {host: row for row, host in enumerate(hosts)}
    ax = axes_of(ax, PAGE_IN, 0.75 + 0.33 * len(hosts))
    total = float((steps["offset_s"] + steps["duration_s"]).max()) * 1e3
    inch = inches_wide(ax) * 0.88 / total
    for row in _steps(steps[steps["what"] == "compute"]):
        start, width, at = row.offset_s * 1e3, row.duration_s * 1e3, lane[row.host]
        if row.queue_s > SEEN_S:
            ax.barh(at, row.queue_s * 1e3, left=start - row.queue_s * 1e3, height=0.3, color=QUEUE, lw=0.0, zorder=2)
        ax.barh(at, width, left=start, height=0.62, color=TIERS[row.tier], edgecolor="white", lw=0.4, zorder=3)
        words = row.vertices if row.tile is None else f"{row.vertices}, tile {row.tile}"
        for text in (words, row.vertices):
            if len(text) * 0.055 < width * inch:
                ax.text(start + width / 2, at, text, ha="center", va="center", size=SMALL, color="white", zorder=4)
                break
        else:
            if row.tile is None:
                ax.text(start + width / 2, at + 0.33, words, ha="center", va="top", size=SMALL, zorder=6)
    for row in _steps(steps[steps["what"] == "transfer"]):
        start, end = row.offset_s * 1e3, (row.offset_s + row.duration_s) * 1e3
        source, target = lane[row.peer], lane[row.host]
        side = 0.31 if target > source else -0.31
        colour = LEG_COLOURS[row.leg]
        ax.annotate(
            "",
            xy=(end, target - side),
            xytext=(start, source + side),
            arrowprops={
                "arrowstyle": "-|>,head_width=0.12,head_length=0.25",
                "color": colour,
                "lw": 0.9,
                "shrinkA": 0,
                "shrinkB": 0,
            },
            zorder=5,
        )
        size = units.size(row.message_bytes)
        if (end - start) * inch > len(size) * 0.075:
            ax.text(
                (start + end) / 2,
                (source + target) / 2,
                size,
                ha="center",
                va="center",
                size=SMALL,
                zorder=6,
                bbox={
                    "boxstyle": "square,pad=0.1",
                    "facecolor": "white",
                    "edgecolor": "none",
                    "alpha": 0.8,
                },
            )
    ax.set(yticks=range(len(hosts)), yticklabels=hosts, ylim=(len(hosts) - 0.4, -0.55), xlim=(-0.01 * total, total * 1.01))
    ax.set_xlabel("time since the device started the request (ms)")
    ax.grid(axis="y", visible=False)
    if legend:
        _legend(ax, steps)
    return ax


def _legend(ax: Axes, steps: pd.DataFrame) -> None:
    """Tiers that computed, legs that were travelled, and the queue if there was one."""
    used = set(steps.loc[steps["what"] == "compute", "tier"])
    handles: dict[str, Any] = {f"{tier} computes": Patch(color=colour) for tier, colour in TIERS.items() if tier in used}
    if (steps["queue_s"].fillna(0.0) > SEEN_S).any():
        handles["waits for a busy host"] = Patch(color=QUEUE)
    words = {"access": "to the edge", "lan": "between edge hosts", "backbone": "to the cloud", "return": "back"}
    travelled = set(steps["leg"].dropna())
    handles |= {text: Line2D([], [], color=LEG_COLOURS[leg]) for leg, text in words.items() if leg in travelled}
    legend_above(ax, handles)
