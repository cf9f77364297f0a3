"""A run's summary as rich tables and lines; whoever prints them decides where. Figures come from `orchestrator.summary`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from testbed.orchestrator.summary import PairSummary, RunSummary
from testbed.report import units

COLOURS = {"trusted": "green", "degraded": "yellow", "rejected": "red"}


def summary_table(run: RunSummary) -> Table:
    """One row per model and planner; speed-ups are over the model's first planner."""
    base = run.pairs[0].planner if run.pairs else ""
    compared = len({pair.planner for pair in run.pairs}) > 1
    table = Table(title=f"{run.scenario} on {run.backend}", title_justify="left", title_style="bold")
    for heading in ("model", "planner"):
        table.add_column(heading, no_wrap=True)
    for heading in ("p50", "p95", "mean", *([f"speed-up on {base}"] if compared else []), "backbone per inference"):
        table.add_column(heading, justify="right")
    for heading in ("plan changes", "vertices touched", "planning first/again", "answers"):
        table.add_column(heading, justify="right")
    table.add_column("verdict", no_wrap=True)
    model = ""
    for pair in run.pairs:
        if model and pair.model != model:
            table.add_section()
        speedup = "" if pair.planner == base else _times(pair.speedup.get(base, math.nan))
        table.add_row(
            pair.model if pair.model != model else "",
            pair.planner,
            _seconds(pair.p50_s),
            _seconds(pair.p95_s),
            _seconds(pair.mean_s),
            *([speedup] if compared else []),
            "–" if math.isnan(pair.backbone_bytes) else units.size(pair.backbone_bytes),
            f"{pair.plan_changes} of {pair.replans}" if pair.replans else "0",
            f"{pair.touched_vertices / pair.replans:.3g} of {pair.vertices}" if pair.replans else "",
            f"{_seconds(pair.first_planning_time_s)} / {_seconds(pair.planning_time_s)}",
            _answers(pair),
            verdict(pair.verdict),
        )
        model = pair.model
    return table


def verdict(word: str) -> str:
    """A verdict in its colour."""
    return f"[{COLOURS.get(word, 'red')}]{word}[/]"


def speedups(run: RunSummary) -> Iterator[str]:
    """A line per model: how many times as fast its fastest planner is as each of the others."""
    for model in dict.fromkeys(pair.model for pair in run.pairs):
        pairs = [pair for pair in run.pairs if pair.model == model and not math.isnan(pair.mean_s)]
        if len(pairs) > 1:
            best = min(pairs, key=lambda pair: pair.mean_s)
            others = ", ".join(f"{_times(best.speedup[p.planner])} {p.planner}" for p in pairs if p is not best)
            yield f"[bold]{escape(model)}[/]: {best.planner} is the fastest on average: {others}"


def conditions(run: RunSummary) -> Iterator[tuple[str, str]]:
    """What the figures depend on, as (name, text)."""
    facts = run.manifest
    scenario = facts.get("scenario", {})
    encoding = str(facts.get("input_encoding", scenario.get("model", {}).get("input_encoding", "?")))
    size = {"float32": "4 bytes a value", "uint8": "1 byte a value"}.get(encoding, "")
    yield "input travels as", f"{encoding} ({size})" if size else encoding
    yield (
        "route",
        {"relay": "relay: device to cloud by way of the edge leader", "direct": "direct: a connection of its own"}.get(
            str(facts.get("route")), str(facts.get("route"))
        ),
    )
    compute = scenario.get("compute", {})
    yield "compute", f"{compute.get('mode')}, tensors {compute.get('tensors')}"
    planning = scenario.get("planning", {})
    yield "re-planning", f"{planning.get('replan')}, network state {planning.get('knowledge')}"
    yield "seed", str(run.seed)
    scale = facts.get("time_scale", 1.0)
    if scale != 1.0 and run.backend != "sim":
        yield "time scale", f"{scale:g} times slower; all times are scaled back"


def verdict_lines(run: RunSummary, most: int = 6) -> Iterator[str]:
    """The verdict, and what speaks against the run."""
    yield f"verdict: {verdict(run.verdict)}" + ("" if run.status == "finished" else f" (run {run.status})")
    for line in run.failing[:most]:
        yield f"  [dim]-[/] {escape(line)}"
    if len(run.failing) > most:
        yield f"  [dim]- and {len(run.failing) - most} more, in fidelity.json[/]"


def _seconds(value: float) -> str:
    return "–" if math.isnan(value) else units.seconds(value)


def _times(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}x"


def _answers(pair: PairSummary) -> str:
    text = f"{pair.requests - pair.failed} of {pair.requests}"
    return text + (f", [red]{pair.wrong} wrong[/]" if pair.wrong else "")
