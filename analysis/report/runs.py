"""A run folder as a section of the page: figures by planner, what was asked for, what happened, and what the verdict rests on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis.report.parts import Cell, Check, Column, Grid, Section, count, number, seconds, size, text, times
from analysis.report.winners import fastest
from testbed.orchestrator.summary import PairSummary, RunSummary, summarise
from testbed.report import Run, load, units
from testbed.report.tables import conditions

MOST_ROWS = 500
"""Rows of a folded table; what is beyond stays in the folder."""


class RunPart:
    """One run folder, read once. Raises InputError for one that cannot be read."""

    def __init__(self, path: Path, label: str) -> None:
        self.path, self.label = path, label
        self.summary: RunSummary = summarise(path)
        self.run: Run = load(path)

    @property
    def title(self) -> str:
        """What it is called."""
        return f"{self.summary.scenario} on {self.summary.backend}"

    @property
    def description(self) -> str:
        """What the scenario says of itself."""
        return str(self.summary.manifest["scenario"].get("description") or "")

    @property
    def verdict(self) -> str:
        """trusted, degraded or rejected."""
        return self.summary.verdict

    def asked(self) -> str:
        """What was run, in a sentence."""
        facts, pairs = self.summary.manifest, self.summary.pairs
        models = ", ".join(dict.fromkeys(pair.model for pair in pairs)) or "no model yet"
        planners = ", ".join(str(name) for name in facts.get("planners", []))
        requests = sum(pair.requests for pair in pairs)
        sessions = f"{len(pairs)} session{'s' if len(pairs) != 1 else ''}"
        return (
            f"{models} by {planners}: {requests} requests in {sessions} on {self.summary.backend}, "
            f"seed {self.summary.seed}, {str(facts.get('started', ''))[:10]}"
        )

    def section(self, number: int) -> Section:
        """All of it, but the figures."""
        manifest = self.summary.manifest
        return Section(
            anchor=f"run-{number}",
            title=self.title,
            subtitle=f"{self.label}: {self.description}" if self.description else self.label,
            verdict=self.verdict,
            facts=tuple(self._facts()),
            against=tuple(self.summary.failing),
            notes=tuple(self._notes()),
            grids=tuple(grid for grid in (planner_grid(self.summary), self._failures()) if grid is not None),
            checks=tuple(self._checks()),
            folded=tuple(grid for grid in (self._plans(), self._events()) if grid is not None),
            manifest=json.dumps(manifest, indent=2, ensure_ascii=False),
        )

    def _facts(self) -> Iterator[tuple[str, str]]:
        manifest = self.summary.manifest
        scenario = manifest["scenario"]
        yield "models", ", ".join(dict.fromkeys(pair.model for pair in self.summary.pairs)) or "none was run"
        yield "planners", ", ".join(str(name) for name in manifest.get("planners", []))
        requests = scenario.get("requests", {})
        yield "requests", f"{requests.get('count')} of each device for each model and planner, {requests.get('arrival')} arrivals"
        yield from traces(scenario)
        yield from conditions(self.summary)
        yield "started", str(manifest.get("started", "?"))
        git = manifest.get("git") or {}
        if git.get("commit"):
            yield "testbed", str(git["commit"])[:12] + (" with changes that are not committed" if git.get("dirty") else "")
        yield "folder", str(self.path)

    def _notes(self) -> Iterator[str]:
        if self.summary.status != "finished":
            reason = self.summary.manifest.get("reason")
            yield f"This run is {self.summary.status}: " + str(reason or "its figures are those of the requests that were over.")
        for pair in self.summary.pairs:
            if pair.failed:
                yield f"{pair.model} by {pair.planner}: {pair.failed} of {pair.requests} requests failed; they are in no latency."
        events = self.run.events
        if "event" in events and "text" in events:
            for words in dict.fromkeys(events[events["event"] == "warning"]["text"].dropna()):
                yield f"Warning: {words}"

    def _failures(self) -> Grid | None:
        failed = self.run.measured[self.run.measured["error"].notna()]
        if not len(failed):
            return None
        names = tuple(Column(name, numeric=False) for name in ("model", "planner", "error"))
        columns = (*names, Column("requests"), Column("first due"), Column("what the first one says", numeric=False))
        rows = []
        for (model, planner, error), own in failed.groupby(["model", "planner", "error"], sort=False):
            first = own.iloc[0]
            row = [text(model), text(planner), text(error, "bad"), count(len(own)), seconds(float(first["due_s"]))]
            rows.append([*row, text(first["error_text"], "words")])
        return Grid("Failed requests", columns, rows)

    def _checks(self) -> Iterator[Check]:
        fidelity = self.run.fidelity
        for invariant in fidelity.get("backend", []):
            yield _check("backend", invariant)
        for session in fidelity.get("sessions", []):
            for invariant in session["invariants"]:
                yield _check(f"{session['model']} by {session['planner']}", invariant)

    def _plans(self) -> Grid | None:
        plans = self.run.plans
        if not len(plans):
            return None
        columns = (
            Column("model", numeric=False),
            Column("planner", numeric=False),
            Column("device", numeric=False),
            Column("at", "scenario seconds since the replay began"),
            Column("because", "what had left its band", numeric=False),
            Column("installed", numeric=False),
            Column("touched", "vertices that were decided anew"),
            Column("planning time"),
            Column("predicted latency", "critical path of one request on an idle network, as known then"),
            Column("device / edge / cloud", "vertices by tier; tiled ones in brackets", numeric=False),
        )
        rows = [_plan_row(record) for record in plans.head(MOST_ROWS).to_dict(orient="records")]
        notes = _beyond(len(plans), "plans.jsonl")
        return Grid(f"Decisions of the planners ({len(plans)})", columns, rows, notes=notes)

    def _events(self) -> Grid | None:
        """Events that are neither decisions nor progress: how many of each kind, and their first and last time."""
        events = self.run.events
        if not len(events) or "event" not in events:
            return None
        columns = (Column("event", numeric=False), Column("how many"), Column("first at"), Column("last at"))
        rows = []
        for kind, own in events.groupby("event", sort=False):
            at = own["at_s"].dropna() if "at_s" in own else own.iloc[:0]["event"]
            first, last = (float(at.min()), float(at.max())) if len(at) else (math.nan, math.nan)
            rows.append([text(kind), count(len(own)), seconds(first), seconds(last)])
        return Grid(f"Events ({len(events)})", columns, rows)


def planner_grid(summary: RunSummary) -> Grid:
    """A row per model and planner, with every figure that the terminal has."""
    base = summary.pairs[0].planner if summary.pairs else ""
    several = len({pair.planner for pair in summary.pairs}) > 1
    columns = [
        Column("model", numeric=False),
        Column("planner", numeric=False),
        Column("p50", "median latency of answered requests, warm-up left out"),
        Column("p95", "their 95th percentile"),
        Column("mean"),
        *([Column("speed‑up", f"mean of {base} over the planner's own")] if several else []),
        Column("backbone", "application bytes per inference towards the cloud"),
        Column("plan changes", "plans installed after the first, of the decisions after it"),
        Column("touched", "vertices that a re-plan decided anew, mean"),
        Column("first plan", "wall-clock seconds of the first plan"),
        Column("re‑plan time", "median wall-clock seconds of a re-plan"),
        Column("answered"),
        Column("wrong", "answers that are not the whole model's"),
        *(Column(heading, note) for heading, note, _ in _sometimes(summary)),
        Column("verdict", numeric=False),
    ]
    rows = []
    for pair in summary.pairs:
        own = [other for other in summary.pairs if other.model == pair.model]
        best = "best" if len(own) > 1 and pair.planner in fastest({p.planner: p.mean_s for p in own}) else ""
        speedup = pair.mean_s / pair.mean_s if pair.planner == base else pair.speedup.get(base, math.nan)
        cells = [
            text(pair.model),
            text(pair.planner, best),
            seconds(pair.p50_s),
            seconds(pair.p95_s),
            seconds(pair.mean_s, best),
            *([times(speedup)] if several else []),
            size(pair.backbone_bytes),
            Cell(f"{pair.plan_changes} of {pair.replans}" if pair.replans else "0", pair.plan_changes),
            _touched(pair),
            seconds(pair.first_planning_time_s),
            seconds(pair.planning_time_s),
            Cell(f"{pair.requests - pair.failed} of {pair.requests}", pair.requests - pair.failed, "bad" if pair.failed else ""),
            Cell("promises none", None, "faint") if pair.lossy else count(pair.wrong, "bad" if pair.wrong else ""),
            *(figure(pair) for _, _, figure in _sometimes(summary)),
            text(pair.verdict, pair.verdict),
        ]
        rows.append(cells)
    return Grid("By model and planner", columns, rows)


def _sometimes(summary: RunSummary) -> list[tuple[str, str, Any]]:
    """Columns that only some planners and models have figures for."""
    found: list[tuple[str, str, Any]] = []
    if any(pair.weights_bytes for pair in summary.pairs):
        found.append(("weights sent", "of models uploaded to servers", lambda pair: size(pair.weights_bytes or None)))
    for name, heading, note in (
        ("accuracy", "accuracy", "share of answers that find the input's label"),
        ("agreement", "agreement", "lossy planners: share of answers that agree with the whole model's"),
        ("local_share", "local exit", "share of answers from a local exit"),
    ):
        if any(math.isfinite(getattr(pair, name)) for pair in summary.pairs):
            found.append((heading, note, lambda pair, name=name: number(getattr(pair, name), units.percent)))
    return found


def _touched(pair: PairSummary) -> Cell:
    if not pair.replans:
        return Cell("–", None)
    mean = pair.touched_vertices / pair.replans
    return Cell(f"{round(mean, 1):g} of {pair.vertices}", mean)


def traces(scenario: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rate or trace of every link that the scenario names."""
    for name, link in scenario.get("links", {}).items():
        parts = []
        if link.get("trace"):
            scale = link.get("trace_scale")
            parts.append(f"trace {link['trace']}" + (f" times {scale:g}" if scale else ""))
        elif link.get("rate"):
            parts.append(units.rate(link["rate"]))
        if link.get("delay"):
            parts.append(f"{units.seconds(link['delay'])} delay")
        if link.get("loss"):
            parts.append(f"{units.percent(link['loss'])} loss")
        if parts:
            yield f"link {name}", ", ".join(parts)


def _check(where: str, invariant: Mapping[str, Any]) -> Check:
    figure, bound = (_figure(invariant.get(name)) for name in ("value", "bound"))
    return Check(where, str(invariant["name"]), str(invariant["level"]), figure, bound, str(invariant.get("detail") or ""))


def _figure(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _plan_row(record: Mapping[Any, Any]) -> list[Cell]:
    plan, change = record.get("plan"), record.get("change")
    named = [str(n) for names in change.values() if isinstance(names, list) for n in names] if isinstance(change, dict) else []
    placement = ""
    if isinstance(plan, dict):
        tiled = sum(len(stack["vertices"]) for stack in plan["stacks"])
        placement = " / ".join(str(plan["tiers"][1:].count(tier)) for tier in ("device", "edge", "cloud"))
        placement += f" ({tiled} tiled)" if tiled else ""
    return [
        text(record["model"]),
        text(record["planner"]),
        text(record["device"]),
        seconds(float(record["at_s"])),
        text(", ".join(named) or record["reason"]),
        text("yes", "good") if record["installed"] else text("held back" if record.get("held") else "no change", "faint"),
        Cell(f"{len(record['touched'])} of {record['vertices']}", len(record["touched"])),
        seconds(float(record["planning_time_s"])),
        seconds(float(record["predicted_latency_s"])),
        text(placement or "as before", "" if placement else "faint"),
    ]


def _beyond(rows: int, file: str) -> tuple[str, ...]:
    return (f"The first {MOST_ROWS} of {rows}; all of them are in {file}.",) if rows > MOST_ROWS else ()
