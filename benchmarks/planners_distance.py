"""How far from the exact optimum HPA's readings and D3 end up: random graphs of 9 and 60 vertices, and the zoo's models.

A distance is the planner's objective divided by the proven optimum: `optimal` for the untiled planners, `optimal-tiles` for d3.
The zoo's rows take each model over the 24 networks of `benchmarks/_problems.py`. "partial" plans on the first network and
re-partitions along the others, one after the other; "stay" keeps the first plan. Both are divided by full re-planning.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from typing import Any

from benchmarks._problems import MODELS, problem_of, walk
from d3node.graph import LayerGraph, Vertex
from d3node.model import ModelSpec, load_graph
from testbed.costs.network import NetworkState, Path
from testbed.costs.table import Costs, TierCosts
from testbed.planners.base import Change, Planner, Problem
from testbed.planners.d3 import D3
from testbed.planners.evaluate import objective_s
from testbed.planners.hpa import Hpa
from testbed.planners.optimal import Optimal, OptimalTiles

TITLE = "Objective divided by the proven optimum"
READINGS: tuple[tuple[str, Planner, dict[str, Any]], ...] = (
    ("hpa", Hpa(), {}),
    ("hpa sis=predecessor", Hpa(), {"sis": "predecessor"}),
    ("hpa sis=off", Hpa(), {"sis": "off"}),
    ("hpa candidates=next", Hpa(), {"candidates": "next"}),
    ("hpa horizon=vertex", Hpa(), {"horizon": "vertex"}),
    ("hpa horizon=vertex sis=off", Hpa(), {"horizon": "vertex", "sis": "off"}),
    ("d3", D3(), {}),
    ("d3 edge_costs=tiled", D3(), {"edge_costs": "tiled"}),
)


def random_problem(seed: int, size: int) -> Problem:
    """A DAG with branches and skips; device slower than edge slower than cloud; rates over two decades."""
    rng = random.Random(seed)
    vertices = [Vertex(0, "input", "input", (), (1, 3, 8, 8), rng.randint(50_000, 600_000))]
    for v in range(1, size):
        near = range(max(0, v - 4), v)
        inputs = tuple(sorted(rng.sample(near, min(len(near), rng.choice((1, 1, 1, 2))))))
        vertices.append(Vertex(v, f"v{v}", "linear", inputs, (1, 8), int(10 ** rng.uniform(3, 6))))
    used = {u for vertex in vertices for u in vertex.inputs}
    graph = LayerGraph("random", tuple(vertices), tuple(v for v in range(1, size) if v not in used))
    work = [0.0] + [rng.expovariate(1.0) * 0.02 for _ in range(size - 1)]
    zeros = (0.0,) * size
    tiers = {
        tier: TierCosts(zeros, tuple(w * pace for w in work)) for tier, pace in (("device", 6.0), ("edge", 1.5), ("cloud", 0.3))
    }
    up, across = Path(10 ** rng.uniform(6.5, 8.5), 0.002), Path(10 ** rng.uniform(6.0, 8.0), 0.02)
    network = NetworkState(up, across, across)
    return Problem(graph, Costs(tiers), network, {"device": "d1", "edge": "e1", "cloud": "c"}, ("e1",))  # type: ignore[arg-type]


def summary(name: str, planner: str, distances: list[float]) -> dict[str, Any]:
    """A row: median, 90th percentile, worst, and how often the optimum was met."""
    ordered = sorted(distances)
    return {
        "problems": name,
        "planner": planner,
        "n": len(ordered),
        "median": statistics.median(ordered),
        "p90": ordered[int(0.9 * (len(ordered) - 1))],
        "worst": ordered[-1],
        "optimal in %": 100.0 * sum(d <= 1.0 + 1e-6 for d in ordered) / len(ordered),
    }


def distances(problems: list[Problem]) -> dict[str, list[float]]:
    """Distances of every reading on every problem."""
    found: dict[str, list[float]] = {}
    for problem in problems:
        best = {"hpa": Optimal().plan(problem).objective_s, "d3": OptimalTiles().plan(problem).plan.notes["bound_s"]}
        for name, planner, options in READINGS:
            decision = planner.plan(replace(problem, options=options))
            found.setdefault(name, []).append(decision.objective_s / best[planner.name])
    return found


def along(steps: list[tuple[Problem, Change]], planner: Planner) -> tuple[list[float], list[float], float]:
    """Objectives over those of full re-planning by the same planner: of partial re-partition, of staying with the first
    plan; and the share of vertices that partial re-partition touches."""
    first = current = planner.plan(steps[0][0]).plan
    partial, stay, touched = [], [], 0
    for problem, change in steps[1:]:
        decision = planner.replan(problem, current, change)
        full = planner.plan(problem).objective_s
        partial.append(decision.objective_s / full)
        stay.append(objective_s(problem, first) / full)
        touched += len(decision.touched)
        current = decision.plan
    return partial, stay, touched / (len(first.tiers) * (len(steps) - 1))


def run() -> list[dict[str, Any]]:
    """Rows by set of problems and planner; the rows of partial re-partition are relative to full re-planning."""
    rows = []
    for size, count in ((9, 300), (60, 100)):
        for planner, found in distances([random_problem(seed, size) for seed in range(count)]).items():
            if planner.startswith("hpa"):
                rows.append(summary(f"random, {size} vertices", planner, found))
    zoo = [list(walk(problem_of(load_graph(ModelSpec(name))))) for name in MODELS]
    for planner, found in distances([problem for steps in zoo for problem, _ in steps]).items():
        rows.append(summary("zoo, 24 networks each", planner, found))
    for planner_object in (Hpa(), D3()):
        partial, stay, shares = [], [], []
        for steps in zoo:
            one, other, share = along(steps, planner_object)
            partial += one
            stay += other
            shares.append(share)
        label = f"{planner_object.name} partial / full, {100 * statistics.mean(shares):.0f} % touched"
        rows.append(summary("zoo, 24 networks each", label, partial))
        rows.append(summary("zoo, 24 networks each", f"{planner_object.name} stay / full", stay))
    return rows


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=160).print(table(TITLE, run()))
