"""A network as a picture: three tiers with their hosts, the links with their rates, and what a plan gives each host to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from analysis.figures.style import INK, LINE, PAGE_IN, SMALL, TIERS, axes_of, styled
from d3node.plan import Plan
from testbed.errors import InputError
from testbed.orchestrator.steps import ranges
from testbed.report import units
from testbed.scenario.links import ResolvedHost, ResolvedLink
from topologies.layout import Layout, Link

Spot = tuple[float, float]

WIDTH = 7.1
"""Of the picture, in its own units, which are about inches."""
BOX = (0.8, 0.6)
"""Width and height of a host."""
DEVICE_X, SWITCH_X, CORE_X, CLOUD_X = 0.55, 3.0, 5.45, 6.5
BANDS = {"device": (0.0, 1.1), "edge": (1.2, 4.8), "cloud": (4.9, WIDTH)}
FAN, DROP, ACROSS = 0.86, 1.0, 4
"""Between two edge hosts; from a site's switch, or a row of edge hosts, down to the next row; edge hosts in a row."""


@styled
def topology(
    layout: Layout,
    links: Mapping[str, ResolvedLink],
    hosts: Mapping[str, ResolvedHost],
    *,
    plan: Plan | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a layout with what a scenario says of its links and hosts (`links_of`, `hosts_of` of `testbed.scenario.links`).

    Links have role, rate up and delay; one that follows a trace has its range, and the trace as a small curve. `plan`: each host
    says which vertices it computes. Raises InputError for a layout without a switch between its tiers.
    """
    place = _places(layout)
    low = min(y for _, y in place.values()) - 0.45
    high = max(y for _, y in place.values()) + 1.0
    ax = axes_of(ax, PAGE_IN, PAGE_IN * (high - low) / WIDTH)
    ax.set(xlim=(0.0, WIDTH), ylim=(low, high), aspect="equal")
    ax.set_axis_off()
    for name, (left, right) in BANDS.items():
        colour = TIERS[name]
        ax.axvspan(left, right, color=colour, alpha=0.08, lw=0.0, zorder=0)
        ax.text((left + right) / 2, high - 0.15, name, ha="center", va="center", size=SMALL + 1.0, color=colour, weight="bold")
    for link in layout.links:
        (x1, y1), (x2, y2) = place[link.a], place[link.b]
        ax.plot([x1, x2], [y1, y2], color=LINE, lw=1.0, zorder=1)
    for link in _worth_words(layout, links):
        _words(ax, link, links[link.name], place)
    for switch in layout.switches:
        ax.plot(*place[switch], marker="o", ms=5.5, color=LINE, zorder=4)
    for host in layout.hosts:
        x, y = place[host.name]
        box = FancyBboxPatch(
            (x - BOX[0] / 2, y - BOX[1] / 2),
            *BOX,
            boxstyle="round,pad=0,rounding_size=0.07",
            fc="white",
            ec=TIERS[host.tier],
            lw=1.4,
        )
        ax.add_patch(box).set_zorder(3)
        known = hosts[host.name]
        words = (known.profile or f"a {host.tier}").rsplit("/", 1)[-1].removesuffix(".json")
        task = _task(host.name, plan) if plan is not None else []
        rows = [host.name, words, *task]
        for number, text in enumerate(rows):
            top = y + 0.122 * (len(rows) - 1) / 2 - 0.122 * number
            size = SMALL + 0.5 if number == 0 else SMALL - 1.0
            colour = TIERS[host.tier] if number > 1 else INK
            ax.text(
                x,
                top,
                text,
                ha="center",
                va="center",
                size=size,
                weight="bold" if number == 0 else "normal",
                color=colour,
                zorder=5,
            )
    return ax


def _places(layout: Layout) -> dict[str, Spot]:
    """Sites below one another: devices left of the site's switch, edge hosts below it; other switches and clouds to the right."""
    sites = list(dict.fromkeys(host.site for host in layout.hosts if host.tier == "device"))
    place: dict[str, Spot] = {}
    y = 0.0
    for site in sites:
        devices, edges = layout.tier("device", site), layout.tier("edge", site)
        switch = next((link.b for link in layout.links if edges and link.a == edges[0].name), None)
        if switch is None or switch not in layout.switches:
            raise InputError(
                f"topology {layout.name!r}: site {site!r} has no switch that its edge hosts hang on; it cannot be drawn"
            )
        place[switch] = (SWITCH_X, y)
        place |= {host.name: (DEVICE_X, at) for host, at in zip(devices, _spread(len(devices), y, 0.7), strict=True)}
        rows = [edges[i : i + ACROSS] for i in range(0, len(edges), ACROSS)]
        for number, row in enumerate(rows):
            below = y - DROP - 0.7 * number
            place |= {host.name: (at, below) for host, at in zip(row, _spread(len(row), SWITCH_X, -FAN), strict=True)}
        y -= max(DROP + 0.7 * len(rows), 0.7 * len(devices)) + 0.3
    middle = sum(place[name][1] for name in layout.switches if name in place) / len(sites)
    devices_own = {link.b for link in layout.links if link.a in layout.by_name and layout.by_name[link.a].tier == "device"}
    for number, name in enumerate(name for name in layout.switches if name not in place and name in devices_own):
        place[name] = (CORE_X, middle + 0.8 + 0.5 * number)
    rest = [name for name in layout.switches if name not in place]
    place |= {name: (CORE_X, at) for name, at in zip(rest, _spread(len(rest), middle, 0.7), strict=True)}
    clouds = layout.tier("cloud")
    return place | {host.name: (CLOUD_X, at) for host, at in zip(clouds, _spread(len(clouds), middle, 0.7), strict=True)}


def _spread(count: int, centre: float, step: float) -> Iterator[float]:
    """So many places around a centre, from high to low where the step is positive."""
    return (centre + step * ((count - 1) / 2 - i) for i in range(count))


def _worth_words(layout: Layout, links: Mapping[str, ResolvedLink]) -> Iterator[Link]:
    """Links between tiers, and one of a LAN; of several that are the same, the one that has room beside it."""
    chosen: dict[object, Link] = {}
    for link in layout.links:
        known = links[link.name]
        kind = (link.role, known.up, known.trace and known.name)
        if link.role != "core" and (kind not in chosen or link.role == "access"):
            chosen[kind] = link
    yield from chosen.values()


def _words(ax: Axes, link: Link, known: ResolvedLink, place: Mapping[str, Spot]) -> None:
    """What a link is, beside it where its slope leaves room: a LAN's to the left, a device's own uplink above, others below or,
    where they fall towards the cloud, above."""
    (x1, y1), (x2, y2) = place[link.a], place[link.b]
    font: dict[str, Any] = {"size": SMALL - 0.5, "color": LINE, "linespacing": 1.25, "zorder": 2}
    if link.role == "lan":
        ax.text((x1 + x2) / 2 - 0.12, (y1 + y2) / 2, f"LAN, {_rate(known)}", ha="right", va="center", **font)
        return
    words = [link.role, _rate(known)]
    if known.up.delay_s > 0.0:
        words.append(f"{units.seconds(known.up.delay_s)} one way")
    access, level = link.role == "access", y1 == y2
    share = 0.42 if access and not level else 0.5
    x, y = x1 + share * (x2 - x1), y1 + share * (y2 - y1)
    upper = not access and not level and (y1 > y2 or link.role != "backbone")
    across = "center" if level or access else "left" if link.role == "backbone" else "right"
    ax.text(x, y + 0.08 if upper else y - 0.08, "\n".join(words), ha=across, va="bottom" if upper else "top", **font)
    if known.traced("up") and known.trace is not None:
        beyond = 0.18 + 0.12 * len(words)
        _curve(ax, known, (x if level else x + 0.85, y + beyond if upper else y + 0.1 if level else y - beyond - 0.6))


def _rate(known: ResolvedLink) -> str:
    if known.traced("up") and known.trace is not None and "rate_bps" in known.trace.columns:
        rates = known.trace.columns["rate_bps"]
        return f"{min(rates) / 1e6:.0f} to {max(rates) / 1e6:.0f} Mbit/s"
    return units.rate(known.up.rate_bps)


def _curve(ax: Axes, known: ResolvedLink, at: Spot, width: float = 1.5, height: float = 0.42) -> None:
    """The first minute of a link's trace above its line."""
    trace = known.trace
    assert trace is not None
    times = [moment for moment in trace.times_s if moment <= 60.0]
    rates = trace.columns["rate_bps"][: len(times)]
    left, bottom, top = at[0] - width / 2, at[1], max(rates)
    xs = [left + width * moment / max(times[-1], 1e-9) for moment in times]
    ys = [bottom + height * rate / top for rate in rates]
    ax.fill_between(xs, ys, bottom, step="post", color=TIERS["cloud"], alpha=0.35, lw=0.0, zorder=2)
    ax.step(xs, ys, where="post", color=TIERS["cloud"], lw=0.8, zorder=2)
    ax.text(at[0], bottom + height + 0.05, f"trace {trace.name}", ha="center", va="bottom", size=SMALL - 0.5, color=LINE)


def _task(host: str, plan: Plan) -> list[str]:
    """What a host computes, in words."""
    tiled = {vertex for stack in plan.stacks for vertex in stack.vertices}
    tier = next((tier for tier, leader in plan.hosts.items() if leader == host), None)
    own = [v for v in plan.part(tier) if v and v not in tiled] if tier is not None else []
    stacks = [stack for stack in plan.stacks if any(tile.host == host and not tile.empty for tile in stack.tiles)]
    words = [f"tile of {ranges(stack.vertices)}" for stack in stacks]
    if len(words) > 1:
        words = [f"tiles of {ranges(tuple(v for stack in stacks for v in stack.vertices))}"]
    return words + ([f"layers {ranges(tuple(own))}"] if own else [])
