"""`testbed plan`: what the planners would decide, at one moment of the traces, without running anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table

from d3node.plan import TIERS, Stack
from testbed import registry
from testbed.cli.app import app
from testbed.cli.console import kept, note, out, print_json, verb
from testbed.cli.options import Json, Models, Overrides, Planners, ScenarioName, scenario_of
from testbed.errors import ScenarioError
from testbed.names import suggestion
from testbed.orchestrator.world import prepare
from testbed.report import units
from testbed.report.drawing import draw
from testbed.report.explain import Explanation, explain, sentences
from testbed.report.forecast import Forecast, Refusal, forecasts
from testbed.report.yardstick import OBJECTIVES, Objective
from testbed.scenario.links import idle_words
from testbed.scenario.schema import Scenario
from testbed.scenario.units import parse

_HEADINGS = (
    *("model", "device", "planner", "latency", "objective", "regret", "regret\ntold", "over\ntiles", "sustains", "backbone"),
    *("planning", "device/edge/\ncloud", "tiled"),
)
_TOLD, _TILES = 6, 7
_MEANINGS = {
    "latency": "Latency: critical path of one request on the idle network.",
    "objective": "Objective: D3's sum of compute and transfer.",
    "regret\ntold": "Regret told: the same on what planners were told, where that is not the truth.",
    "over\ntiles": "Over tiles: objective over that of optimal-tiles.",
    "sustains": "Sustains: requests a second that no queue grows at.",
    "backbone": "Backbone: bytes in frames towards the cloud.",
    "planning": "Planning: what the planner took, on this machine.",
    "device/edge/\ncloud": "Device/edge/cloud: layers on each tier.",
    "tiled": "Tiled: how many layers are computed in tiles.",
}
_ALL = "all"
_UNPROVEN = " (Of the best proven bound, which no placement may reach.)"
_JUDGED = {
    "latency": "objective over the exact optimum without tiles; below zero where tiles, exits or another edge leader gain.",
    "throughput": "busiest host or link over the least that any placement without tiles can do.",
    "critical-path": "latency over the shortest of any placement without tiles.",
}


@verb(app, "plan")
def plan(
    scenario: ScenarioName,
    planners: Planners = None,
    models: Models = None,
    overrides: Overrides = None,
    at: Annotated[str, typer.Option("--at", metavar="TIME", help='Moment of the traces, such as "12 s".')] = "0 s",
    show: Annotated[bool, typer.Option("--show", help="List what runs where, what crosses, and the tiles.")] = False,
    yardstick: Annotated[
        str, typer.Option("--yardstick", metavar="OBJECTIVE", help=f"What regret is about: {', '.join(OBJECTIVES)}.")
    ] = "latency",
    pictures: Annotated[
        Path | None,
        typer.Option("--explain", metavar="DIR", help="Tell why each cut is where it is, and draw each plan into an SVG file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predicted latency, objective, bytes and regret of each planner's plan; `--planner all` for all there are."""
    objective = cast(Objective, yardstick)
    if objective not in OBJECTIVES:
        raise ScenarioError(f"--yardstick: {yardstick!r} is no objective{suggestion(yardstick, OBJECTIVES)}")
    everybody = planners is not None and _ALL in planners
    if everybody:
        planners = [*registry.planners(), *(name for name in planners or () if name != _ALL)]
    wanted = scenario_of(scenario, overrides, planners, models)
    try:
        time_s = parse("duration", at)
    except ValueError as error:
        raise ScenarioError(f"--at: {error}") from error
    world = prepare(wanted)
    for text in idle_words(world.links):
        note(text)
    refusals: list[Refusal] = []
    found = list(forecasts(world, time_s, objective, refusals if everybody else None))
    drawn = [] if pictures is None else [(item, explain(item)) for item in found]
    files = [] if pictures is None else [_draw(pictures, explained) for _, explained in drawn]
    if as_json:
        facts = [_facts(item, found) for item in found]
        for each, (_, explained) in zip(facts, drawn, strict=False):
            each["explanation"] = sentences(explained)
        print_json(
            {
                "scenario": wanted.name,
                "at_s": time_s,
                "yardstick": yardstick,
                "plans": facts,
                "refusals": [vars(refusal) for refusal in refusals],
            }
        )
        return
    table, headings = _table(wanted, found, time_s)
    out.print(table)
    for refusal in refusals:
        out.print(f"{refusal.model} on {refusal.device}, {refusal.planner}: {refusal.reason}", soft_wrap=True, highlight=False)
    regret = _JUDGED[objective] + ("" if all(item.bound.reached for item in found) else _UNPROVEN)
    meanings = {**_MEANINGS, "regret": f"Regret: {regret}"}
    for heading in headings:
        if heading in meanings:
            out.print(meanings[heading], style="dim", soft_wrap=True)
    if show:
        for item in found:
            _show(item)
    for (item, explained), file in zip(drawn, files, strict=True):
        out.print(f"\n[bold]{item.model}[/bold] by [bold]{item.planner}[/bold], for device {item.device}: {file}")
        for line in sentences(explained):
            out.print(line, soft_wrap=True, highlight=False)


def _table(scenario: Scenario, found: list[Forecast], time_s: float) -> tuple[Table, list[str]]:
    """The table, and the headings of the columns that fit."""
    title = (
        f"{scenario.name} at {units.seconds(time_s)}, input as {scenario.model.input_encoding}, route {scenario.network.route}"
    )
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    several = len({item.device for item in found}) > 1
    rows: list[tuple[str, ...]] = []
    before = ("", "")
    for item in found:
        same = (item.model, item.device)
        rows.append(
            (
                item.model if same != before else "",
                item.device if same != before else "",
                item.planner,
                units.seconds(item.prediction.latency_s),
                units.seconds(item.objective_s),
                _percent(item.regret),
                _percent(item.regret_told) if item.told is not item.problem else "",
                _percent(_over_tiles(item, found)),
                f"{1.0 / item.prediction.bottleneck_s:.3g} /s" if item.prediction.bottleneck_s > 0.0 else "",
                units.size(item.prediction.backbone_bytes + item.prediction.direct_bytes),
                units.seconds(item.planning_s),
                "/".join(str(len(item.vertices(tier))) for tier in TIERS),
                str(sum(len(stack.vertices) for stack in item.decision.plan.stacks) or ""),
            )
        )
        before = same
    empty = {i for i in (_TOLD, _TILES) if not any(row[i] for row in rows)} | ({1} if not several else set())
    there = [i for i in range(len(_HEADINGS)) if i not in empty]
    headings = [_HEADINGS[i] for i in there]
    rows = [tuple(row[i] for i in there) for row in rows]
    columns = kept(headings, rows, ("planning", "sustains", "objective", "tiled"))
    for i in columns:
        left = headings[i] in ("model", "device", "planner")
        table.add_column(headings[i], justify="left" if left else "right", no_wrap=True, vertical="bottom")
    for row in rows:
        table.add_row(*(row[i] for i in columns))
    return table, [headings[i] for i in columns]


def _draw(folder: Path, explained: Explanation) -> Path:
    """The picture's file, named for model, device and planner."""
    item = explained.forecast
    name = "-".join(re.sub(r"[^\w.]+", "_", part) for part in (item.model, item.device, item.planner))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    path.write_text(draw(explained))
    return path


def _over_tiles(item: Forecast, found: list[Forecast]) -> float | None:
    """Share by which a plan's objective is above that of `optimal-tiles` for the same model and device, if that was asked for."""
    for other in found:
        if (other.model, other.device, other.planner) == (item.model, item.device, "optimal-tiles"):
            return item.objective_s / other.objective_s - 1.0
    return None


def _percent(share: float | None) -> str:
    return "" if share is None else f"{round(share * 100, 1) + 0.0:+.1f} %"  # + 0.0: no "-0.0" of rounding


def _facts(item: Forecast, found: list[Forecast]) -> dict[str, Any]:
    return {
        "model": item.model,
        "device": item.device,
        "planner": item.planner,
        "latency_s": item.prediction.latency_s,
        "objective_s": item.objective_s,
        "value_s": item.value_s,
        "optimum_s": item.bound.seconds,
        "optimum_reached": item.bound.reached,
        "regret": item.regret,
        "regret_told": item.regret_told,
        "sustains_per_s": 1.0 / item.prediction.bottleneck_s if item.prediction.bottleneck_s > 0.0 else None,
        "regret_over_tiles": _over_tiles(item, found),
        "backbone_bytes": item.prediction.backbone_bytes,
        "direct_bytes": item.prediction.direct_bytes,
        "planning_s": item.planning_s,
        "plan": item.decision.plan.to_dict(),
    }


def _show(item: Forecast) -> None:
    graph, plan = item.problem.graph, item.decision.plan
    out.print(f"\n[bold]{item.model}[/bold] by [bold]{item.planner}[/bold], for device {item.device}")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for tier in TIERS:
        vertices = item.vertices(tier)
        if vertices:
            seconds = item.problem.costs.run_s(vertices, tier, plan.hosts[tier])
            runs = ", ".join(_runs([graph[v].name for v in vertices], vertices))
            table.add_row(f"{tier} {plan.hosts[tier]}", f"{len(vertices)} vertices, {units.seconds(seconds)} untiled: {runs}")
    for crossing in item.crossings():
        what = f"{crossing.name}: {units.size(crossing.payload_bytes)}, {units.seconds(crossing.seconds)}"
        table.add_row(f"{crossing.source} → {crossing.target}", what)
    for stack in plan.stacks:
        rows = f"{graph[stack.vertices[0]].name} … {graph[stack.output].name}, {len(stack.vertices)} vertices"
        tiles = "; ".join(
            f"{tile.host} rows {tile.rows[0]}–{tile.rows[1]} columns {tile.columns[0]}–{tile.columns[1]}"
            for tile in stack.tiles
            if not tile.empty
        )
        table.add_row(f"stack {stack.grid[0]}x{stack.grid[1]}", f"{rows}{_travels(stack)}: {tiles}")
    out.print(table)


def _travels(stack: Stack) -> str:
    """How tiles are dealt and where the map goes, where that is not by plan and to the leader."""
    words = [word for word, is_so in (("idle hosts steal", stack.stealing), ("overlaps reused", stack.reuse)) if is_so]
    ways = {"relay": "borders by way of the leader", "neighbours": "borders between neighbours"}
    words += [ways[stack.handover]] if stack.handover in ways else []
    return f" ({', '.join(words)})" if words else ""


def _runs(names: list[str], vertices: tuple[int, ...]) -> list[str]:
    """Consecutive vertices as "first … last"."""
    found: list[list[int]] = []
    for place, v in enumerate(vertices):
        if found and vertices[found[-1][-1]] == v - 1:
            found[-1].append(place)
        else:
            found.append([place])
    return [names[run[0]] if len(run) == 1 else f"{names[run[0]]} … {names[run[-1]]}" for run in found]
