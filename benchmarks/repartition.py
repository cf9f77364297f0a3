"""What re-planning is worth under recorded bandwidth traces, and what partial re-planning saves against full.

`topologies/replan.toml` in `sim`, sizes only, for every trace, model, way to re-plan and state of knowledge. Recorded traces are
taken from the folder named in D3_TRACE_DIR, or from a `traces` folder of a sibling of this checkout; without them the shipped
made-up ones are used. Every session sees the same requests at the same moments of the trace.

Bound: the mean over requests of the best latency that any one fixed plan gives that request, in hindsight. A plan is "fixed" at
a rate when it is what the planner makes for a backbone of that rate. No way to choose among these plans can be better, but for
requests that meet in a queue.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis.replanning import RATES_MBPS, Fixed
from testbed import registry
from testbed.backends.sim import SimBackend
from testbed.orchestrator import run as run_scenario
from testbed.orchestrator.summary import PairSummary
from testbed.scenario.load import load
from testbed.scenario.schema import Scenario

TITLE = "Re-partition under traces (replan.toml, sim, sizes only): partial, full and no re-planning, and options beside D3's"
ROOT = Path(__file__).resolve().parent.parent
SCENARIO = ROOT / "topologies" / "replan.toml"
RECORDED = ("mahimahi/Verizon-LTE-short.up", "solis-wifi/wifi_office_231114-160442.txt")
SHIPPED = ("lte-like", "wifi-office-like")
REQUESTS = 200
WAYS = (("never", "estimated"), ("partial", "estimated"), ("full", "estimated"), ("partial", "true"), ("full", "true"))
BEYOND: dict[str, tuple[str, ...]] = {
    "hysteresis 3 %": ("planning.hysteresis=0.03",),
    "hysteresis 10 %": ("planning.hysteresis=0.1",),
    "cusum": ("planning.detector=cusum",),
    "cusum, 3 samples": ("planning.detector=cusum", "planning.samples=3"),
    "cache of 32 plans": ("planning.plan_cache=32",),
    "all three": ("planning.detector=cusum", "planning.hysteresis=0.03", "planning.plan_cache=32"),
}
"""Options beside D3's, on top of partial re-planning from estimates."""


def traces() -> list[str]:
    """Paths of the recorded traces where they can be found, else the names of the shipped ones."""
    named = os.environ.get("D3_TRACE_DIR")
    folders = [Path(named)] if named else [found.parents[1] for found in sorted(ROOT.parent.glob(f"*/traces/{RECORDED[0]}"))]
    if folders and all((folders[0] / name).exists() for name in RECORDED):
        return [str(folders[0] / name) for name in RECORDED]
    return list(SHIPPED)


def scenario(trace: str, *overrides: str) -> Scenario:
    """The scenario with a trace on its backbone, in sizes."""
    return load(
        str(SCENARIO),
        [f"links.backbone.trace={trace}", "compute.tensors=sizes", f"requests.count={REQUESTS}", *overrides],
    )


def latencies(folder: Path) -> dict[str, list[float]]:
    """Latency of every measured request in order, by model. Raises ValueError for a request that failed."""
    found: dict[str, list[float]] = {}
    with (folder / "inferences.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["error"]:
                raise ValueError(f"request {row['request']} of {row['model']} failed: {row['error_text']}")
            if row["warmup"] == "false":
                found.setdefault(row["model"], []).append(float(row["latency_s"]))
    return found


def bounds(trace: str, planner: str = "d3") -> dict[str, float]:
    """Mean over requests of the best latency among all fixed plans, in seconds, by model."""
    best: dict[str, list[float]] = {}
    fixed = scenario(trace, "planning.replan=never")
    for rate in RATES_MBPS:
        with tempfile.TemporaryDirectory() as folder:
            run_scenario(
                fixed, SimBackend(), Path(folder) / "run", planners={planner: Fixed(registry.planner(planner), rate * 1e6)}
            )
            for model, seen in latencies(Path(folder) / "run").items():
                best[model] = [min(pair) for pair in zip(best.get(model, seen), seen, strict=True)]
    return {model: fmean(found) for model, found in best.items()}


def measure(trace: str, replan: str, knowledge: str, *overrides: str) -> Sequence[PairSummary]:
    """One run; a summary per model."""
    chosen = scenario(trace, f"planning.replan={replan}", f"planning.knowledge={knowledge}", *overrides)
    with tempfile.TemporaryDirectory() as folder:
        summary = run_scenario(chosen, SimBackend(), Path(folder) / "run")
        if summary.verdict != "trusted":
            raise ValueError(f"the run is {summary.verdict}: {summary.failing}")
        return summary.pairs


def row(trace: str, way: tuple[str, str], pair: PairSummary, full: PairSummary | None) -> dict[str, Any]:
    """One line of the table; `full` is the same with full re-planning, where there is something to compare."""
    replan, knowledge = way
    return {
        "trace": Path(trace).name,
        "model": pair.model,
        "re-plan": replan,
        "knows": knowledge,
        "mean ms": round(pair.mean_s * 1e3, 1),
        "p95 ms": round(pair.p95_s * 1e3, 1),
        "re-plans": pair.replans,
        "changes": pair.plan_changes,
        "touched": pair.touched_vertices,
        "median plan ms": round(pair.planning_time_s * 1e3, 2) if pair.replans else "",
        "touched / full": f"{pair.touched_vertices / max(full.touched_vertices, 1):.2f}" if full else "",
        "mean / full": f"{pair.mean_s / full.mean_s:.3f}" if full else "",
    }


def run() -> list[dict[str, Any]]:
    """All traces, models and ways, and the bound of each."""
    rows = []
    for trace in traces():
        found = {way: {pair.model: pair for pair in measure(trace, *way)} for way in WAYS}
        beyond = {name: {p.model: p for p in measure(trace, "partial", "estimated", *words)} for name, words in BEYOND.items()}
        bound = bounds(trace)
        for model, bound_s in bound.items():
            for way, pairs in found.items():
                full = found["full", way[1]][model] if way[0] == "partial" else None
                rows.append(row(trace, way, pairs[model], full))
            for name, pairs in beyond.items():
                rows.append(row(trace, (name, "estimated"), pairs[model], found["full", "estimated"][model]))
            empty = dict.fromkeys(rows[-1], "")
            known = {"trace": Path(trace).name, "model": model, "re-plan": "bound", "knows": "hindsight"}
            rows.append({**empty, **known, "mean ms": round(bound_s * 1e3, 1)})
    return rows


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=160).print(table(TITLE, run()))
