"""Latencies: their distribution, and how they follow the network while plans change."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator, NullLocator

from analysis.figures.style import (
    FAINT,
    LINE,
    PAGE_IN,
    SMALL,
    axes_of,
    inches_wide,
    legend_above,
    look,
    looks,
    own_figure,
    single,
    styled,
    thickness,
)
from analysis.frames import answered
from testbed.errors import InputError
from testbed.names import suggestion

CHANGE = "plan-change"
"""The gid of the lines that mark a new plan."""


@styled
def latency_cdf(inferences: pd.DataFrame, *, by: str = "planner", ax: Axes | None = None, legend: bool = True) -> Axes:
    """Empirical distribution of one model's latencies, a curve for each value of `by` (planner, backend, run, ...).

    Raises InputError for several models, and where `by` is not planner for several planners.
    """
    rows = answered(inferences)
    for column in ("model", "planner"):
        if column != by:
            single(rows, column, "latency_cdf")
    ax = axes_of(ax)
    curves = looks(map(str, rows[by].dropna().unique()), by)
    for place, (name, found) in enumerate(curves.items()):
        drawn = {key: value for key, value in found.line.items() if not key.startswith("marker")}
        width = thickness(place, len(curves))
        sns.ecdfplot(x=rows.loc[rows[by] == name, "latency_s"] * 1e3, ax=ax, label=name, lw=width, **drawn)
    ax.set(xlabel="latency (ms)", ylabel="share of requests", ylim=(0.0, 1.02))
    if legend:
        legend_above(ax)
    return ax


@styled
def latency_timeline(
    inferences: pd.DataFrame,
    links: pd.DataFrame,
    plans: pd.DataFrame,
    *,
    link: str = "backbone",
    direction: str = "up",
    log: bool = False,
    axes: Sequence[Axes] | None = None,
) -> Figure | SubFigure:
    """Latency of every request of one model over the replay; below, which plan each planner that changed it had, and the rate of
    a link. A dotted line in the planner's colour marks each new plan.

    `log`: latencies on a logarithmic axis. `axes`: three to draw on, from top to bottom (latency, plans, rate). Raises InputError
    for several models or runs, and for a link that is not there.
    """
    rows = answered(inferences)
    model = single(rows, "model", "latency_timeline")
    single(rows, "run", "latency_timeline")
    planners = [str(name) for name in rows["planner"].unique()]
    mine = plans[(plans["model"] == model) & plans["planner"].isin(planners) & plans["installed"].fillna(False)]
    changed = [name for name in planners if (mine.loc[mine["planner"] == name, "reason"] != "first").any()]
    rate = _rate(links, model, link, direction)
    end = float(max((rows["submitted_s"] + rows["latency_s"]).max(), 1e-3))
    if axes is None:
        heights = [2.4, 0.16 + 0.22 * max(len(changed), 1), 0.8]
        axes = own_figure(3, PAGE_IN, sum(heights) + 0.5, sharex=True, height_ratios=heights)
    above, strip, below = axes
    for place, name in enumerate(planners):
        one = rows[rows["planner"] == name].sort_values("submitted_s")
        width = 0.8 * thickness(place, len(planners))
        above.plot(one["submitted_s"], one["latency_s"] * 1e3, label=name, lw=width, **look(name).line)
    for place, name in enumerate(changed):
        dots = (2.0 * place, (2.0, max(2.0 * len(changed) - 2.0, 2.0)))  # planners that change at one moment share its line
        for at_s in mine.loc[(mine["planner"] == name) & (mine["reason"] != "first"), "at_s"]:
            for ax in (above, below):
                ax.axvline(at_s, color=look(name).colour, lw=0.9, ls=dots, zorder=1, gid=CHANGE)
    above.set(ylabel=f"latency of {model} (ms)")
    if log:
        above.set_yscale("log")
        above.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        above.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        above.yaxis.set_minor_locator(NullLocator())
    else:
        above.set_ylim(0.0, None)
    legend_above(above)
    _strip(strip, mine, changed, end)
    below.fill_between(rate["at_s"], rate["rate_bps"] / 1e6, step="post", color=FAINT, lw=0.0)
    below.step(rate["at_s"], rate["rate_bps"] / 1e6, where="post", color=LINE, lw=0.9)
    below.set(
        xlabel="time since the replay began (s)", ylabel=f"{link}\n(Mbit/s)", ylim=(0.0, None), xlim=(-0.01 * end, end * 1.01)
    )
    return above.figure


def _rate(links: pd.DataFrame, model: str, link: str, direction: str) -> pd.DataFrame:
    """The longest session's states of a link direction, with its end."""
    there = links[links["model"] == model]
    if link not in set(there["link"]):
        raise InputError(f"no link {link!r}{suggestion(link, map(str, there['link'].unique()), 'there are')}")
    found = there[(there["link"] == link) & (there["direction"] == direction)]
    longest = str(found["planner"].iloc[int(found["until_s"].argmax())])
    states = found[found["planner"] == longest].sort_values("at_s")
    last = states.iloc[[-1]].assign(at_s=states["until_s"].iloc[-1])
    return pd.concat([states, last])


def _strip(ax: Axes, plans: pd.DataFrame, planners: list[str], end: float) -> None:
    """A lane for each planner: its plans one after the other, named by their structure where there is room."""
    ax.grid(False)
    ax.set(ylim=(len(planners) - 0.5 if planners else 0.5, -0.5), yticks=range(len(planners)), yticklabels=planners)
    ax.tick_params(axis="both", length=0)
    if not planners:
        ax.text(
            0.5,
            0.5,
            "no planner changed its plan",
            transform=ax.transAxes,
            ha="center",
            va="center",
            color=LINE,
            size=SMALL,
        )
    inches = inches_wide(ax) * 0.85
    for lane, name in enumerate(planners):
        own = plans[plans["planner"] == name].sort_values("at_s")
        ends = [*own["at_s"].iloc[1:], max(end, own["at_s"].iloc[-1])]
        tints: dict[str, float] = {}
        for start, until, structure in zip(own["at_s"], ends, own["structure"], strict=True):
            alpha = tints.setdefault(structure, (0.28, 0.6, 0.12, 0.45)[len(tints) % 4])
            ax.barh(lane, until - start, left=start, height=0.84, color=look(name).colour, alpha=alpha, lw=0.0)
            if (until - start) / end * inches > len(structure) * 0.062:
                ax.text((start + until) / 2, lane, structure, ha="center", va="center", size=SMALL)
