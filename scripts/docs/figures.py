"""The figures of docs/how_d3_works.md, drawn from real plans (`generate.py` writes them to docs/figures/).

Nothing in them is placed by hand: plans, tile ranges and prices are those of the shipped quickstart. A test draws them again
and compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from xml.sax.saxutils import escape

from d3node.graph import LayerGraph
from d3node.intervals import area, reverse
from d3node.plan import TIERS, Plan, Stack, Tier
from testbed.orchestrator.world import prepare
from testbed.planners.base import Change, Problem
from testbed.planners.hpa import Hpa
from testbed.planners.objective import objective_s
from testbed.report import units
from testbed.report.drawing import FILL, STROKE, draw
from testbed.report.explain import explain
from testbed.report.forecast import Forecast, forecasts, problems_at, state_at
from testbed.scenario.load import load

TILES = ("#3c8c40", "#2b6cb0", "#b8711a", "#8e44ad", "#c81e3c", "#0f8b8d")
GREY = "#555"


def figures() -> dict[str, str]:
    """Every figure by file name."""
    alexnet = _plans("alexnet", ("hpa", "optimal", "device-only", "edge-only", "cloud-only"))
    (d3,) = _plans("vgg16", ("d3",)).values()
    return {
        "plan.svg": draw(explain(alexnet["optimal"])),
        "cuts.svg": cuts(alexnet),
        "tiles.svg": tiles(d3.problem.graph, d3.decision.plan.stacks[0]),
        "partial.svg": partial("vgg16"),
    }


def _plans(model: str, planners: Sequence[str]) -> dict[str, Forecast]:
    names = ", ".join(f'"{name}"' for name in planners)
    world = prepare(load("quickstart", [f'model.names=["{model}"]', f"planning.planners=[{names}]"]))
    return {found.planner: found for found in forecasts(world)}


def cuts(plans: dict[str, Forecast]) -> str:
    """The sum of compute and transfer over all pairs of cuts of a chain, and where planners end up."""
    problem = next(iter(plans.values())).problem
    graph, blank = problem.graph, plans["optimal"].decision.plan
    n, cell, left, top = len(graph), 38, 150, 96

    def tiers_of(first: int, second: int) -> tuple[Tier, ...]:
        return tuple(TIERS[(v >= first) + (v >= second)] for v in range(n))

    sums = {
        (i, j): objective_s(problem, replace(blank, tiers=tiers_of(i, j), stacks=()))
        for i in range(1, n + 1)
        for j in range(i, n + 1)
    }
    least = min(sums.values())
    parts = [_text(20, 28, "AlexNet in the quickstart: every pair of cuts, and where planners end up", 16, bold=True)]
    parts += _lines(
        "Each cell is one placement; its figure and shade are D3's objective, in ms. Row: first layer that is",
        "not on the device. Column: first layer in the cloud. Right end: nothing in the cloud.",
    )
    names = [vertex.name for vertex in graph]
    for j in range(1, n + 1):
        x = left + (j - 1) * cell + cell / 2
        label = escape(names[j] if j < n else "none")
        parts.append(f'<text transform="translate({x + 4:.0f} {top + n * cell + 10}) rotate(50)" font-size="11">{label}</text>')
    for i in range(1, n + 1):
        y = top + (i - 1) * cell
        parts.append(_text(left - 8, y + cell / 2 + 4, names[i] if i < n else "none", 11, anchor="end"))
        for j in range(i, n + 1):
            x = left + (j - 1) * cell
            share = min(1.0, (sums[i, j] / least - 1.0) / 4.0)
            parts.append(f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="{_shade(share)}" stroke="#fff"/>')
            dark = "#fff" if share > 0.6 else "#222"
            parts.append(_text(x + cell / 2, y + cell / 2 + 4, f"{sums[i, j] * 1e3:.0f}", 11, dark, anchor="middle"))
    for name, found in plans.items():
        tiers = found.decision.plan.tiers
        i = tiers.count("device")
        j = i + tiers.count("edge")
        x, y = left + (j - 1) * cell, top + (i - 1) * cell
        colour = {"optimal": "#127a2a", "hpa": "#c81e3c"}.get(name, "#222")
        parts.append(_rect(x + 1, y + 1, cell - 2, cell - 2, f'fill="none" stroke="{colour}" stroke-width="3"'))
    legend = (("optimal", "#127a2a"), ("hpa", "#c81e3c"), ("one tier alone: device-only, edge-only, cloud-only", "#222"))
    for row, (name, colour) in enumerate(legend):
        y = top + n * cell - 3 * cell + 27 * row
        parts.append(f'<rect x="{left}" y="{y - 12:.0f}" width="14" height="14" fill="none" stroke="{colour}" stroke-width="3"/>')
        value = f": {sums[_place(plans[name])] * 1e3:.1f} ms" if name in plans else ""
        parts.append(_text(left + 22, y, f"{name}{value}", 12))
    return _svg(left + n * cell + 70, top + n * cell + 100, parts)


def _place(found: Forecast) -> tuple[int, int]:
    tiers = found.decision.plan.tiers
    return tiers.count("device"), tiers.count("device") + tiers.count("edge")


def tiles(graph: LayerGraph, stack: Stack) -> str:
    """What each tile of a stack produces of every map on the way, walked back from the output: halos are where they overlap."""
    side, gap, left, top = 190, 46, 24, 96
    regions = [(tile, reverse(graph, stack.vertices, (tile.rows, tile.columns))) for tile in stack.tiles if not tile.empty]
    source = min(regions[0][1].read)
    pools = [v for v in stack.vertices if "pool" in graph[v].operator]
    shown = [source, stack.vertices[0], *pools[:2], stack.output]
    parts = [_text(left, 30, "VSM: one fused stack of VGG-16 over four edge hosts", 16, bold=True)]
    said = f"{len(stack.vertices)} vertices, {graph[stack.vertices[0]].name} to {graph[stack.output].name}; tiles are cut"
    parts += _lines(
        f"{said} from the last map (right) and walked back to what they need of every",
        "earlier one. Darker: the halo, which more than one host computes (or, of the input, is sent).",
        x=left,
    )
    for place, v in enumerate(shown):
        vertex = graph[v]
        x, scale = left + place * (side + gap), side / max(vertex.rows, vertex.columns)
        parts.append(f'<rect x="{x}" y="{top}" width="{side}" height="{side}" fill="#fff" stroke="#999"/>')
        total = 0
        for number, (tile, region) in enumerate(regions):
            rows, columns = region.read[v] if v == source else region.produced[v]
            total += area((rows, columns))
            look = f'fill="{TILES[number]}" fill-opacity="0.35" stroke="{TILES[number]}" stroke-width="1.5"'
            title = f"{tile.host}: rows {rows[0]} to {rows[1]}, columns {columns[0]} to {columns[1]}"
            wide, tall = (columns[1] - columns[0]) * scale, (rows[1] - rows[0]) * scale
            parts.append(_rect(x + columns[0] * scale, top + rows[0] * scale, wide, tall, look, title))
        whole = vertex.rows * vertex.columns
        parts.append(_text(x, top + side + 18, vertex.name, 12, bold=True))
        parts.append(_text(x, top + side + 34, f"{vertex.rows} x {vertex.columns}", 12, GREY))
        more = "sent" if v == source else "computed"
        extra = "exactly once" if total == whole else f"{total / whole - 1.0:+.1%} {more} more than once"
        parts.append(_text(x, top + side + 50, extra, 12, GREY))
        if place:
            parts.append(_text(x - gap / 2, top + side / 2 + 5, "→", 20, GREY, anchor="middle"))
    x = left
    for number, (tile, region) in enumerate(regions):
        rows, columns = region.read[source]
        words = f"{tile.host} reads rows {rows[0]}–{rows[1]}, columns {columns[0]}–{columns[1]}"
        parts.append(f'<rect x="{x}" y="{top + side + 66}" width="12" height="12" fill="{TILES[number]}" fill-opacity="0.5"/>')
        parts.append(_text(x + 18, top + side + 77, words, 12))
        x += 285
    return _svg(left + len(shown) * (side + gap), top + side + 96, parts)


def partial(model: str) -> str:
    """A backbone that changes, HPA's partial answers, and the vertices each of them looked at."""
    moments = (0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0)
    world = prepare(load("quickstart", [f'model.names=["{model}"]']))
    planner = Hpa()
    cell, left, top = 34, 190, 96
    parts = [_text(20, 28, "VGG-16 while the backbone changes: partial re-partition", 16, bold=True)]
    parts += _lines(
        "Rows: moments of the quickstart's trace. Columns: vertices in topological order, coloured by tier.",
        "Framed: looked at again. The first row is a full pass; the others keep all that the change does not bear on.",
    )
    before: Plan | None = None
    width = 0
    for row, moment in enumerate(moments):
        problem: Problem = next(iter(problems_at(world, model, state_at(world, moment)).values()))
        if before is None:
            decision = planner.plan(problem)
        else:
            decision = planner.replan(problem, before, Change(paths=frozenset({"edge_cloud"})))
        y = top + row * (cell + 8)
        rate = units.rate(problem.network.edge_cloud.rate_bps)
        parts.append(_text(left - 12, y + cell / 2 + 4, f"{moment:.0f} s, {rate}", 12, anchor="end"))
        width = len(problem.graph) * cell
        for vertex in problem.graph:
            tier = decision.plan.tiers[vertex.index]
            moved = before is not None and before.tiers[vertex.index] != tier
            stroke, wide = ("#111", 2.6) if vertex.index in decision.touched else (STROKE[tier], 0.6)
            look = f'rx="4" fill="{FILL[tier]}" stroke="{stroke}" stroke-width="{wide}"'
            parts.append(_rect(left + vertex.index * cell + 2, y + 2, cell - 4, cell - 4, look, f"{vertex.name}: {tier}"))
            if moved:
                parts.append(_text(left + (vertex.index + 0.5) * cell, y + cell / 2 + 5, "•", 16, anchor="middle"))
        parts.append(_text(left + width + 12, y + cell / 2 + 4, f"{len(decision.touched)} of {len(problem.graph)}", 12))
        before = decision.plan
    y = top + len(moments) * (cell + 8) + 16
    x = float(left)
    for tier in TIERS:
        parts.append(f'<rect x="{x}" y="{y - 11}" width="14" height="14" rx="3" fill="{FILL[tier]}" stroke="{STROKE[tier]}"/>')
        parts.append(_text(x + 20, y, tier, 12))
        x += 90
    parts.append(_text(x, y, "•  moved to another tier", 12))
    return _svg(left + width + 80, y + 18, parts)


def _shade(share: float) -> str:
    """White-green for the least, dark red for five times as much and more."""
    low, high = (232, 246, 233), (150, 32, 40)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


def _lines(*texts: str, x: float = 20.0) -> list[str]:
    """What a figure shows, below its title."""
    return [_text(x, 48 + 16 * row, text, 12, GREY) for row, text in enumerate(texts)]


def _text(x: float, y: float, text: str, size: int, colour: str = "#222", anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    look = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}'
    return f'<text x="{x:.0f}" y="{y:.0f}" {look}>{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, look: str, title: str = "") -> str:
    said = f"><title>{escape(title)}</title></rect>" if title else "/>"
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {look}{said}'


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
            f' width="{width:.0f}" height="{height:.0f}"'
            ' font-family="DejaVu Sans, Verdana, sans-serif">',
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
            *parts,
            "</svg>",
            "",
        ]
    )
