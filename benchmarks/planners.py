"""Planning time per model of the zoo: D3's planners, partial re-partition against full plans, and the exact optima.

Costs: a Raspberry Pi 4, four edge hosts of Jetson TX2 class on a 1 Gbit/s LAN, a GPU cloud (`testbed/costs/devices`). Every
planner walks over 24 networks (access 10 to 400 Mbit/s, backbone 2 to 200 Mbit/s), one link changing at a time, so that the
cut moves; the figures are the median and the worst of the walk's steps, each step the best of three. Partial re-partitions are
timed along three walks on fresh copies of the graph, so that each knows what its own past taught it and no more, and where
they touch something; "full / partial" is the median of the steps' ratios to a full plan for the same network. "cold" is the
first plan for a graph nobody has planned for yet. The rivals are in `planners_rivals.py`.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from d3node.graph import LayerGraph
from d3node.model import ModelSpec, load_graph
from d3node.plan import Tier
from testbed.costs import devices
from testbed.costs.network import NetworkState, Path
from testbed.costs.table import Costs
from testbed.planners.base import Change, Decision, Planner, Problem
from testbed.planners.d3 import D3
from testbed.planners.hpa import Hpa
from testbed.planners.optimal import Optimal, OptimalTiles

TITLE = "Planning time in ms, median / worst over 24 networks"
MODELS = ("alexnet", "vgg16", "resnet18", "darknet53", "inception_v4")
PROFILES: dict[Tier, str] = {"device": "raspberry-pi-4", "edge": "jetson-tx2", "cloud": "rtx-2080-ti"}


def problem_of(graph: LayerGraph) -> Problem:
    """The benchmark's problem for a graph."""
    costs = Costs({tier: devices.tier_costs(name, graph) for tier, name in PROFILES.items()})
    lan = {f"e{i}": Path(1e9, 2e-4) for i in (2, 3, 4)}
    network = NetworkState(Path(85e6, 0.002), Path(30e6, 0.02), Path(30e6, 0.022), lan)
    return Problem(graph, costs, network, {"device": "d1", "edge": "e1", "cloud": "c"}, ("e1", "e2", "e3", "e4"))


def walk(problem: Problem) -> Iterator[tuple[Problem, Change]]:
    """The problem on 24 networks, one link changing from each to the next, and that change."""
    before = problem
    for i, access in enumerate((10e6, 25e6, 85e6, 400e6)):
        backbones = (2e6, 5e6, 13e6, 31e6, 80e6, 200e6)
        for backbone in backbones if i % 2 == 0 else reversed(backbones):
            state = replace(problem.network, device_edge=Path(access, 0.002), edge_cloud=Path(backbone, 0.02))
            names = [n for n in ("device_edge", "edge_cloud") if getattr(state, n) != getattr(before.network, n)]
            before = replace(problem, network=state)
            yield before, Change(paths=frozenset(names))


def best_ms(action: Callable[[], object], repeats: int = 3) -> float:
    """Least milliseconds of an action, garbage collection off."""
    gc.disable()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(1e3 * (time.perf_counter() - start))
    gc.enable()
    return min(times)


def full_ms(planner: Planner, steps: list[tuple[Problem, Change]]) -> list[float]:
    """Milliseconds of a full plan on every network."""
    planner.plan(steps[0][0])
    return [best_ms(partial(planner.plan, problem)) for problem, _ in steps]


def cold_ms(planner: Planner, fresh: list[Problem]) -> float:
    """Least milliseconds of the first plan for a graph, over graphs that are used once."""
    return min(best_ms(partial(planner.plan, problem), 1) for problem in fresh)


def partial_ms(planner: Planner, graph: LayerGraph, rounds: int = 3) -> tuple[list[float], list[float], list[int]]:
    """Milliseconds of the partial re-partitions that touch something, how much longer full plans for the same networks took, and
    how many vertices were touched."""
    spent: dict[int, list[float]] = {}
    full: dict[int, list[float]] = {}
    touched: dict[int, int] = {}
    for _ in range(rounds):
        steps = list(walk(problem_of(replace(graph))))
        current = planner.plan(steps[0][0]).plan
        for i, (problem, change) in enumerate(steps[1:]):
            decisions: list[Decision] = []
            ask = partial(planner.replan, problem, current, change)
            spent.setdefault(i, []).append(best_ms(lambda ask=ask, into=decisions: into.append(ask()), 1))  # type: ignore[misc]
            full.setdefault(i, []).append(best_ms(partial(planner.plan, problem), 1))
            touched[i] = len(decisions[0].touched)
            current = decisions[0].plan
    wanted = [i for i, count in touched.items() if count]
    times = [min(spent[i]) for i in wanted]
    return times, [min(full[i]) / min(spent[i]) for i in wanted], [touched[i] for i in wanted]


def shown(times: list[float]) -> str:
    """Median / worst."""
    return f"{statistics.median(times):.2f} / {max(times):.2f}" if times else "-"


def run() -> list[dict[str, Any]]:
    """One row per model."""
    rows = []
    for name in MODELS:
        graph = load_graph(ModelSpec(name))
        steps = list(walk(problem_of(graph)))
        fresh = [problem_of(replace(graph)) for _ in range(6)]  # a copy of the graph carries nothing that was worked out
        hpa_cold, d3_cold = cold_ms(Hpa(), fresh[:3]), cold_ms(D3(), fresh[3:])
        hpa_partial, hpa_gain, touched = partial_ms(Hpa(), graph)
        d3_partial, d3_gain, _ = partial_ms(D3(), graph)
        rows.append(
            {
                "model": name,
                "vertices": len(graph),
                "hpa": shown(full_ms(Hpa(), steps)),
                "hpa cold": f"{hpa_cold:.2f}",
                "hpa partial": shown(hpa_partial),
                "full / partial": f"{statistics.median(hpa_gain):.1f}",
                "touched": statistics.median(touched) if touched else 0,
                "d3": shown(full_ms(D3(), steps)),
                "d3 partial": shown(d3_partial),
                "d3 full / partial": f"{statistics.median(d3_gain):.1f}",
                "d3 cold": f"{d3_cold:.1f}",
                "optimal": shown(full_ms(Optimal(), steps)),
                "optimal-tiles": shown(full_ms(OptimalTiles(), steps)),
            }
        )
    return rows


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=190).print(table(TITLE, run()))
