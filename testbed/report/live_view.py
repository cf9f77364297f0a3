"""A `Live` as rich renderables, for a terminal of any width; figures are those of `Live`, worded by `units`."""

from __future__ import annotations

import math
from statistics import median

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from testbed.report import units
from testbed.report.curves import sparkline
from testbed.report.live import WINDOW_S, HostNow, LinkNow, Live

BESIDE = 116
"""Columns from which on links and hosts stand side by side."""
LINKS, HOSTS, PLANS, NEWS = 8, 10, 4, 4
"""Rows of each at most."""
SPARK = 20
"""Blocks of a rate at most."""
BAR = 8
"""Characters of a utilisation."""
_PARTS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
WIDE_AREA = ("backbone", "cellular")


def view(live: Live, width: int, wall_s: float) -> RenderableType:
    """All of it, `width` columns wide, after `wall_s` seconds on the wall."""
    parts: list[RenderableType] = [_head(live, width, wall_s)]
    if live.links:
        links, hosts = _links(live, width), _hosts(live)
        if width >= BESIDE:
            both = Table.grid(padding=(0, 4))
            both.add_row(links, hosts)
            parts += [Text(), both]
        else:
            parts += [Text(), links, Text(), hosts]
        parts += [Text(), _latencies(live, width), *_plans(live)]
    if live.news:
        parts += [Text(), *(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in list(live.news)[-NEWS:])]
    return Group(*parts)


def _head(live: Live, width: int, wall_s: float) -> RenderableType:
    title = Text(no_wrap=True, overflow="ellipsis")
    if live.scenario:
        title.append(f"{live.scenario} on {live.backend}", style="bold")
    if live.number:
        title.append(f"   {live.model} by {live.planner}")
        title.append(f" ({live.number}/{live.sessions})", style="dim")
    clock = Text(no_wrap=True, overflow="ellipsis")
    clock.append(f"{live.at_s:.1f} s", style="bold cyan")
    clock.append(f" of scenario time   {live.phase}   {wall_s:.0f} s on the wall   {live.done} of {live.total} requests over")
    if live.flying:
        clock.append(f", {live.flying} in flight")
    if live.failed:
        clock.append(f", {live.failed} failed", style="red")
    bar = ProgressBar(total=max(1, live.total), completed=live.done, width=min(width, 120))
    return Group(title, clock, bar)


def _links(live: Live, width: int) -> Table:
    table = _table("link", "rate now", f"past {WINDOW_S:.0f} s", "in use", "carried")
    for (name, way), link in shown_links(live):
        arrow = "↑" if way == "up" else "↓"
        rate = Text("outage", style="red") if link.rate_bps == 0.0 else Text(units.rate(link.rate_bps))
        blocks = max(6, min(SPARK, width - 50))
        past = Text(_spark(link, live.at_s, blocks), style="cyan") if link.changes else Text("steady", style="dim")
        table.add_row(f"{name} {arrow}", rate, past, _share(link.use(live.at_s)), units.size(link.framed_bytes))
    return table


def shown_links(live: Live) -> list[tuple[tuple[str, str], LinkNow]]:
    """Directions worth a row: those whose rate changes, those to the cloud, and those that carried most, in this order."""
    every = list(live.links.items())

    def rank(item: tuple[tuple[str, str], LinkNow]) -> tuple[bool, bool, float]:
        link = item[1]
        return (link.changes == 0, link.role not in WIDE_AREA, -link.framed_bytes)

    return sorted((item for item in every if item[1].changes or item[1].framed_bytes or item[0][1] == "up"), key=rank)[:LINKS]


def _hosts(live: Live) -> Table:
    table = _table("host", "tier", "busy", "queue", "CPU free")
    rows = sorted(live.hosts.items(), key=lambda item: -item[1].busy_s) if len(live.hosts) > HOSTS else list(live.hosts.items())
    for name, host in rows[:HOSTS]:
        table.add_row(name, Text(host.tier, style="dim"), _busy(host, live.at_s), _waited(host), units.percent(host.cpu_share))
    return table


def _busy(host: HostNow, now: float) -> Text:
    share = host.utilisation(now)
    eighths = min(8 * BAR, round(share * 8 * BAR))
    bar = "█" * (eighths // 8) + _PARTS[eighths % 8]
    return Text.assemble((bar, "green"), ("░" * (BAR - len(bar)), "dim"), f" {units.percent(share):>7}")


def _waited(host: HostNow) -> Text:
    return Text(units.seconds(host.queued_s), style="yellow" if host.queued_s > 0.0 else "dim")


def _latencies(live: Live, width: int) -> RenderableType:
    known = [value for value in live.latencies if value is not None]
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("latency   ", style="dim")
    if not live.latencies:
        line.append("no measured request is over yet", style="dim")
        return line
    recent = list(live.latencies)[-max(10, min(60, width - 50)) :]
    values = [value or 0.0 for value in recent]
    line.append(sparkline([float(i) for i in range(len(values))], values, float(len(values)), len(values)), style="green")
    last = live.latencies[-1]
    line.append(f"   last {'failed' if last is None else units.seconds(last)}")
    if known:
        line.append(f", median {units.seconds(median(known))} of {len(known)}")
    return line


def _plans(live: Live) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for device, plan in list(live.plans.items())[:PLANS]:
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append("plan      ", style="dim")
        line.append(f"{device}: ")
        tiers = plan["tiers"]
        line.append(", ".join(f"{tiers[tier]} on {tier}" for tier in ("device", "edge", "cloud") if tiers[tier]), style="bold")
        if plan["tiled"]:
            line.append(f", {plan['tiled']} tiled over {len(plan['tile_hosts'])}")
        line.append(f"; predicted {units.seconds(plan['predicted_latency_s'])}, since {plan['at_s']:.1f} s")
        if live.changes:
            line.append(f", change {live.changes}", style="yellow")
        lines.append(line)
    if len(live.plans) > PLANS:
        lines.append(Text(f"          and {len(live.plans) - PLANS} more devices", style="dim"))
    return lines


def _spark(link: LinkNow, now: float, blocks: int) -> str:
    """The rate over the window, a block for each part of it."""
    start = max(0.0, now - WINDOW_S)
    if now <= start or not link.times:
        return ""
    begun = max((i for i, at_s in enumerate(link.times) if at_s <= start), default=0)
    times = [max(start, at_s) for at_s in link.times[begun:]]
    return sparkline(times, link.rates[begun:], now, blocks) if times[0] < now else ""


def _share(value: float | None) -> Text:
    if value is None or not math.isfinite(value):
        return Text("–", style="dim")
    return Text(units.percent(value), style="yellow" if value > 0.8 else "")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number in (0, 2) or heading == "tier" else "right", no_wrap=True)
    return table
