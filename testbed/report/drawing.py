"""A plan as a picture: the layer graph coloured by tier, what crosses a tier boundary numbered, and the reasons below. SVG.

Places come from `layered.py`, reasons from `explain.py`; this file only draws.
"""

from __future__ import annotations

import textwrap
from itertools import pairwise
from xml.sax.saxutils import escape

from d3node.plan import TIERS, Tier
from testbed.report import units
from testbed.report.explain import Explanation, sentences
from testbed.report.layered import BOX, GUTTER, PITCH, Page, Spot, lay_out

FILL: dict[Tier, str] = {"device": "#bfe3c0", "edge": "#b9d4f1", "cloud": "#f3cfa2"}
STROKE: dict[Tier, str] = {"device": "#3c8c40", "edge": "#2b6cb0", "cloud": "#b8711a"}
CROSSING = "#c81e3c"
PLAIN = "#8a8f98"
MARGIN = 28.0
LINE = 17.0
NARROW = 920.0
"""The least width that the text below the graph has."""
LETTER = 7.2


def draw(found: Explanation) -> str:
    """The SVG document."""
    forecast = found.forecast
    graph, plan = forecast.problem.graph, forecast.decision.plan
    page = lay_out(graph)
    width = max(page.width, NARROW) + 2 * MARGIN
    room = int(page.width / LETTER) if page.width > NARROW else int(NARROW / LETTER)
    reasons = [line for text in sentences(found) for line in textwrap.wrap(text, room, subsequent_indent="      ")]
    top = MARGIN + 3.7 * LINE
    height = top + page.height + 2 * LINE + LINE * len(reasons) + MARGIN
    tiled = {v for stack in plan.stacks for v in stack.vertices}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}"'
        ' font-family="DejaVu Sans, Verdana, sans-serif" font-size="11">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        *_heading(found),
        f'<g transform="translate({MARGIN:.1f} {top:.1f})">',
    ]
    numbers = {(b.crossing.vertex, b.crossing.target): b.number for b in found.boundaries}
    plain, crossing, badges = [], [], []
    for (u, w), route in page.routes.items():
        points, middle = _path(page, route, route_index=u)
        if plan.tiers[u] == plan.tiers[w]:
            plain.append(f'<path d="{points}" fill="none" stroke="{PLAIN}" stroke-width="1.1"/>')
            continue
        crossing.append(f'<path d="{points}" fill="none" stroke="{CROSSING}" stroke-width="2.4"/>')
        said = [n for (v, target), n in numbers.items() if v == u and (target == plan.tiers[w] or target == "edge")]
        badges.append(_badge(*middle, ",".join(str(n) for n in sorted(said))))
    parts += [*plain, *crossing]
    for vertex in graph:
        x, y = page.centre[vertex.index, graph.levels[vertex.index]]
        tier = plan.tiers[vertex.index]
        seconds = forecast.told.costs.vertex_s(vertex.index, tier, plan.hosts[tier]) if vertex.index else 0.0
        below = (
            f"{units.seconds(seconds)}, {units.size(vertex.output_bytes)}" if vertex.index else units.size(vertex.output_bytes)
        )
        parts.append(_box(x, y, tier, vertex.name, below, vertex.index in tiled, f"{vertex.index}: {vertex.operator}"))
    parts += [*badges, "</g>"]
    y = top + page.height + 2 * LINE
    for line in reasons:
        indent = len(line) - len(line.lstrip())
        parts.append(f'<text x="{MARGIN + 5 * indent:.1f}" y="{y:.1f}" font-size="12">{escape(line.strip())}</text>')
        y += LINE
    return "\n".join([*parts, "</svg>", ""])


def _heading(found: Explanation) -> list[str]:
    forecast = found.forecast
    title = f"{forecast.model} by {forecast.planner}, for device {forecast.device}"
    figures = (
        f"latency {units.seconds(forecast.prediction.latency_s)}, backbone"
        f" {units.size(forecast.prediction.backbone_bytes + forecast.prediction.direct_bytes)}"
    )
    parts = [
        f'<text x="{MARGIN}" y="{MARGIN + 6}" font-size="17" font-weight="bold">{escape(title)}</text>',
        f'<text x="{MARGIN}" y="{MARGIN + 6 + LINE}" font-size="12" fill="#444">{escape(figures)}</text>',
    ]
    x, y = MARGIN, MARGIN + 6 + 2.1 * LINE
    plan = forecast.decision.plan
    for tier in TIERS:
        vertices = forecast.vertices(tier)
        seconds = forecast.told.costs.run_s(vertices, tier, plan.hosts[tier])
        label = f"{tier} {plan.hosts[tier]}: {len(vertices)} layers, {units.seconds(seconds)}"
        if tier == "edge" and plan.stacks:
            label += f" untiled ({sum(len(stack.vertices) for stack in plan.stacks)} in tiles: dashed)"
        parts.append(f'<rect x="{x}" y="{y - 10}" width="14" height="12" rx="3" fill="{FILL[tier]}" stroke="{STROKE[tier]}"/>')
        parts.append(f'<text x="{x + 20}" y="{y}" font-size="12">{escape(label)}</text>')
        x += 40 + 7.2 * len(label)
    return parts


def _box(x: float, y: float, tier: Tier, name: str, below: str, tiled: bool, title: str) -> str:
    dashes = ' stroke-dasharray="5 3"' if tiled else ""
    shown = name if len(name) <= 27 else "…" + name[-26:]
    return (
        f"<g><title>{escape(title)}</title>"
        f'<rect x="{x - BOX[0] / 2:.1f}" y="{y - BOX[1] / 2:.1f}" width="{BOX[0]}" height="{BOX[1]}" rx="6" fill="{FILL[tier]}"'
        f' stroke="{STROKE[tier]}" stroke-width="{2 if tiled else 1.2}"{dashes}/>'
        f'<text x="{x:.1f}" y="{y - 3:.1f}" text-anchor="middle" font-size="10">{escape(shown)}</text>'
        f'<text x="{x:.1f}" y="{y + 11:.1f}" text-anchor="middle" font-size="9.5" fill="#444">{escape(below)}</text></g>'
    )


def _badge(x: float, y: float, text: str) -> str:
    half = 8.0 + 3.2 * max(len(text) - 1, 0)
    return (
        f'<rect x="{x - half:.1f}" y="{y - 8:.1f}" width="{2 * half:.1f}" height="16" rx="8" fill="{CROSSING}"/>'
        f'<text x="{x:.1f}" y="{y + 3.8:.1f}" text-anchor="middle" font-size="10.5" font-weight="bold" fill="#fff">{text}</text>'
    )


def _path(page: Page, route: list[Spot], route_index: int) -> tuple[str, tuple[float, float]]:
    """An edge through its spots, and where a number on it goes: the middle of its last piece."""
    commands: list[str] = []
    middle = (0.0, 0.0)
    for i, (a, b) in enumerate(pairwise(route)):
        x0, y0 = page.centre[a]
        x1, y1 = page.centre[b]
        y0 += BOX[1] / 2 if i == 0 else 0.0
        y1 -= BOX[1] / 2 if i == len(route) - 2 else 0.0
        if not commands:
            commands.append(f"M{x0:.1f} {y0:.1f}")
        if page.column[a[1]] == page.column[b[1]]:
            bend = (y1 - y0) / 2
            commands.append(f"C{x0:.1f} {y0 + bend:.1f} {x1:.1f} {y1 - bend:.1f} {x1:.1f} {y1:.1f}")
            middle = ((x0 + x1) / 2, (y0 + y1) / 2)
            continue
        right = page.edges_x[page.column[a[1]]][1]
        gutter = right + GUTTER / 2 + (route_index % 5 - 2) * 5.0
        down, up = y0 + (PITCH - BOX[1]) / 2 + (BOX[1] / 2 if i else 0.0), -(PITCH - BOX[1]) / 2
        turns = ((x0, down), (gutter, down), (gutter, up), (x1, up), (x1, y1))
        commands += [f"L{x:.1f} {y:.1f}" for x, y in turns]
        middle = (gutter, (down + up) / 2)
    return " ".join(commands), middle
