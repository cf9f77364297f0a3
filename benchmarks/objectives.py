"""Objectives "throughput" and "critical-path" on the zoo: how often they are proven, how long that takes, and what they gain.

Every fourth of the 24 networks of `benchmarks/_problems.py`. "gain": the least-sum plan's value of the objective over the found
one's; "open": the largest share by which the found value is above the planner's own proven bound; "over optimal": the largest by
which it is above that of `optimal-throughput`, where that is the objective.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks._problems import MODELS, problem_of, walk
from d3node.model import ModelSpec, load_graph
from testbed.planners.base import Planner, Problem
from testbed.planners.evaluate import critical_path
from testbed.planners.hpa import HpaThroughput
from testbed.planners.optimal import Optimal, OptimalCriticalPath, OptimalThroughput

TITLE = "Two more objectives: proofs, times, gains"
EVERY = 4
PLANNERS: tuple[tuple[Planner, str, str], ...] = (
    (OptimalThroughput(), "bottleneck_s", "bottleneck_bound_s"),
    (HpaThroughput(), "bottleneck_s", "bottleneck_bound_s"),
    (OptimalCriticalPath(), "critical_path_s", "bound_s"),
)


def row(model: str, problems: list[Problem], planner: Planner, value: str, bound: str) -> dict[str, Any]:
    """One planner on one model."""
    times, gains, gaps, over, proven = [], [], [], [], 0
    for problem in problems:
        started = time.perf_counter()
        notes = planner.plan(problem).plan.notes
        times.append(time.perf_counter() - started)
        least = critical_path(problem, Optimal().plan(problem).plan)
        gains.append((least.bottleneck_s if value == "bottleneck_s" else least.latency_s) / notes[value])
        gaps.append(notes[value] / notes[bound] - 1.0)
        if value == "bottleneck_s":
            over.append(notes[value] / OptimalThroughput().plan(problem).plan.notes[value] - 1.0)
        proven += notes["status"] == "optimal"
    return {
        "model": model,
        "vertices": len(problems[0].graph),
        "planner": planner.name,
        "proven": f"{proven} of {len(problems)}",
        "open": f"{100 * max(gaps):.2f} %",
        "over optimal": f"{100 * max(over):.2f} %" if over else "",
        "median s": round(statistics.median(times), 3),
        "worst s": round(max(times), 3),
        "median gain": round(statistics.median(gains), 2),
        "largest gain": round(max(gains), 2),
    }


def run() -> list[dict[str, Any]]:
    """Rows by planner and model."""
    problems = {name: [problem for problem, _ in walk(problem_of(load_graph(ModelSpec(name))))][::EVERY] for name in MODELS}
    return [row(name, problems[name], *planner) for planner in PLANNERS for name in MODELS]


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=160).print(table(TITLE, run()))
