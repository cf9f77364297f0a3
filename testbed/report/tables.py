"""A run's summary as rich tables and lines; whoever prints them decides where. Figures come from `orchestrator.summary`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from testbed.orchestrator.overload import REFUSED
from testbed.orchestrator.summary import PairSummary, RunSummary
from testbed.report import units
from testbed.report.run import Run

COLOURS = {"trusted": "green", "degraded": "yellow", "rejected": "red"}


@dataclass(frozen=True)
class _Column:
    """A column of the summary. On narrow screens the one with the largest `spare` is left out first; 0 stays."""

    heading: str
    cell: Callable[[PairSummary, str], str]
    spare: int = 0


_COLUMNS = (
    _Column("p50", lambda pair, base: _seconds(pair.p50_s)),
    _Column("p95", lambda pair, base: _seconds(pair.p95_s)),
    _Column("mean", lambda pair, base: _seconds(pair.mean_s), 4),
    _Column("speed-up", lambda pair, base: _times(pair.speedup.get(base, math.nan)) if pair.planner != base else "1"),
    _Column("backbone", lambda pair, base: _size(pair.backbone_bytes)),
    _Column("plan\nchanges", lambda pair, base: f"{pair.plan_changes} of {pair.replans}" if pair.replans else "0", 1),
    _Column("vertices\ntouched", lambda pair, base: _touched(pair), 2),
    _Column("first\nplan", lambda pair, base: _seconds(pair.first_planning_time_s), 5),
    _Column("re-plan", lambda pair, base: _seconds(pair.planning_time_s), 3),
    _Column("weights\nsent", lambda pair, base: _size(pair.weights_bytes) if pair.weights_bytes else "–", 2),
    _Column("answers", lambda pair, base: _answers(pair)),
    _Column("accuracy", lambda pair, base: _share(pair.accuracy)),
    _Column("local\nexit", lambda pair, base: _share(pair.local_share)),
    _Column("verdict", lambda pair, base: verdict(pair.verdict)),
)
_SOMETIMES = ("weights\nsent", "accuracy", "local\nexit")
"""Columns that are left out where no planner has a figure for them."""
_GAP = 2


def summary_table(run: RunSummary, width: int) -> Table:
    """One row per model and planner, with as many columns as fit into `width` characters.

    Speed-ups are over the first planner's mean; backbone bytes are per inference; vertices touched are a mean over re-plans;
    weights sent are those of a whole session, where a planner uploads any.
    """
    return _table(f"{run.scenario} on {run.backend}", [(f"  {pair.planner}", pair) for pair in run.pairs], width)


def pooled_table(pool: RunSummary, runs: Mapping[str, RunSummary], width: int) -> Table:
    """As `summary_table`, for several runs by their names: after the row of all of them together a row for each."""
    rows = []
    for pair in pool.pairs:
        rows.append((f"  {pair.planner}", pair))
        for name, run in runs.items():
            rows += [(f"    {name}", own) for own in run.pairs if (own.model, own.planner) == (pair.model, pair.planner)]
    return _table(f"{pool.scenario} on {pool.backend}: {len(runs)} runs together, and each", rows, width)


def _table(title: str, rows: Sequence[tuple[str, PairSummary]], width: int) -> Table:
    base = rows[0][1].planner if rows else ""
    names = [name for name, _ in rows]
    pairs = [pair for _, pair in rows]
    columns = {column: [column.cell(pair, base) for pair in pairs] for column in _COLUMNS}
    if all(pair.planner == base for pair in pairs):
        columns = {column: cells for column, cells in columns.items() if column.heading != "speed-up"}
    columns = {c: cells for c, cells in columns.items() if c.heading not in _SOMETIMES or any(cell != "–" for cell in cells)}
    first = max([len(name) for name in (*names, *(pair.model for pair in pairs))], default=0)
    while first + sum(_GAP + _width(column, cells) for column, cells in columns.items()) > width:
        if not (droppable := max(columns, key=lambda column: column.spare)).spare:
            break
        del columns[droppable]
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    table.pad_edge, table.padding = False, (0, _GAP, 0, 0)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="right", vertical="bottom", no_wrap=True, header_style="dim")
    model = ""
    for number, pair in enumerate(pairs):
        if pair.model != model:
            table.add_row(f"[bold]{escape(pair.model)}[/]")
            model = pair.model
        style = "dim" if names[number].startswith("    ") else None
        table.add_row(escape(names[number]), *(cells[number] for cells in columns.values()), style=style)
    return table


def _width(column: _Column, cells: list[str]) -> int:
    return max([len(line) for line in column.heading.split("\n")] + [Text.from_markup(cell).cell_len for cell in cells])


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
            yield f"[bold]{escape(model)}[/]: shortest mean with {best.planner}, against {others}"


def failure_lines(run: Run) -> Iterator[str]:
    """Why measured requests failed: a line per model, planner and kind of error, with the first one's words."""
    failed = run.measured[run.measured["error"].notna()]
    for (model, planner, error), rows in failed.groupby(["model", "planner", "error"], sort=False):
        ended = "shed" if error in REFUSED else "failed"
        words = f"{model} by {planner}: {len(rows)} {ended} with {error}: {rows['error_text'].iloc[0]}"
        yield f"[red]{escape(words)}[/]"


def fault_lines(run: Run) -> Iterator[str]:
    """What was done about each fault of each session: a line for every one that came about."""
    for row in run.faults[run.faults["begin_s"].notna()].to_dict(orient="records"):
        began = float(row["begin_s"])
        words = [f"{row['model']} by {row['planner']}: {row['kind']} {row['target']} at {began:g} s"]
        if not math.isnan(row["noticed_s"]):
            words.append(f"noticed after {_seconds(float(row['noticed_s']) - began)}")
        if not math.isnan(row["replanned_s"]):
            words.append(f"planned around after {_seconds(float(row['replanned_s']) - began)}")
        if row["resumed"]:
            words.append(f"{row['resumed']} request{'s' if row['resumed'] > 1 else ''} went on")
        yield escape(", ".join(words))


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
    if len({pair.planner for pair in run.pairs}) > 1:
        yield "speed-up", f"mean of {run.pairs[0].planner} over the planner's own"
    yield "backbone", "application bytes per inference towards the cloud; warm-up requests are in no figure of the table"
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


def _size(count: float) -> str:
    return "–" if math.isnan(count) else units.size(count)


def _touched(pair: PairSummary) -> str:
    """Mean over the re-plans."""
    return f"{round(pair.touched_vertices / pair.replans, 1):g} of {pair.vertices}" if pair.replans else ""


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def _answers(pair: PairSummary) -> str:
    """How many requests were answered, and of lossy planners how many of the answers agree with the whole model's."""
    text = f"{pair.requests - pair.failed}/{pair.requests}" + (f", {pair.shed} shed" if pair.shed else "")
    if pair.lossy:
        text += "" if math.isnan(pair.agreement) else f", {pair.agreement:.0%} agree"
        return text + (f", {pair.fallbacks} fallback" if pair.fallbacks else "")
    return text + (f", [red]{pair.wrong} wrong[/]" if pair.wrong else "")
