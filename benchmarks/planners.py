"""Planning time per model of the zoo, and the exact cut against networkx's maximum flows on the same network.

Costs: a Raspberry Pi 4, four edge hosts of Jetson TX2 class on a 1 Gbit/s LAN, a GPU cloud (`testbed/costs/devices`). Every
planner walks over 24 networks (access 10 to 400 Mbit/s, backbone 2 to 200 Mbit/s), one link changing at a time, so that the
cut moves; the figures are the median and the worst of the walk's steps, each step the best of three. Partial
re-partitions are timed where they touch something. "cold" is the first plan for a graph nobody has planned for yet.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import networkx as nx

from d3node.graph import LayerGraph
from d3node.model import ModelSpec, load_graph
from d3node.plan import Tier
from testbed.costs import devices
from testbed.costs.network import NetworkState, Path
from testbed.costs.table import Costs
from testbed.planners.base import Change, Decision, Planner, Problem
from testbed.planners.d3 import D3
from testbed.planners.hpa import Hpa
from testbed.planners.mincut import flow_network, price_vector
from testbed.planners.optimal import Optimal, OptimalTiles
from testbed.planners.prices import prices

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


def best_ms(action: Callable[[], Decision], repeats: int = 3) -> float:
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


def partial_ms(planner: Planner, steps: list[tuple[Problem, Change]]) -> tuple[list[float], list[int]]:
    """Milliseconds of the partial re-partitions that touch something, and how many vertices they touch."""
    current = planner.plan(steps[0][0]).plan
    times, touched = [], []
    for problem, change in steps[1:]:
        spent = best_ms(partial(planner.replan, problem, current, change))
        decision = planner.replan(problem, current, change)
        if decision.touched:
            times.append(spent)
            touched.append(len(decision.touched))
        current = decision.plan
    return times, touched


def shown(times: list[float]) -> str:
    """Median / worst."""
    return f"{statistics.median(times):.2f} / {max(times):.2f}" if times else "-"


def networkx_flow(problem: Problem) -> Any:
    """The flow network of the exact cut for networkx; parallel arcs are merged, infinite ones have no capacity."""
    network, finite = flow_network(problem.graph, False), price_vector(prices(problem))
    flow = nx.DiGraph()
    for tail, head, price in zip(network.tails.tolist(), network.heads.tolist(), network.price.tolist(), strict=True):
        if price >= len(finite):
            flow.add_edge(tail, head)
        elif flow.has_edge(tail, head):
            flow[tail][head]["capacity"] += int(finite[price])
        else:
            flow.add_edge(tail, head, capacity=int(finite[price]))
    return flow


def peers(problems: list[Problem]) -> dict[str, float]:
    """Seconds of networkx's cut (network already built) over seconds of `optimal` (everything), median over problems."""
    algorithms = {"BK": nx.algorithms.flow.boykov_kolmogorov, "preflow": nx.algorithms.flow.preflow_push}
    ratios: dict[str, list[float]] = {name: [] for name in algorithms}
    for problem in problems:
        flow = networkx_flow(problem)
        own_ms = best_ms(partial(Optimal().plan, problem))
        objective = Optimal().plan(problem).objective_s
        for name, algorithm in algorithms.items():
            start = time.perf_counter()
            value, _ = nx.minimum_cut(flow, 0, 1, flow_func=algorithm)
            ratios[name].append(1e3 * (time.perf_counter() - start) / own_ms)
            if abs(value / 1e9 - objective) > 1e-6:
                raise RuntimeError(
                    f"networkx {name} finds another optimum for {problem.graph.name}: {value} ns, not {objective} s"
                )
    return {name: statistics.median(found) for name, found in ratios.items()}


def run() -> list[dict[str, Any]]:
    """One row per model."""
    rows = []
    for name in MODELS:
        graph = load_graph(ModelSpec(name))
        steps = list(walk(problem_of(graph)))
        fresh = [problem_of(replace(graph)) for _ in range(6)]  # a copy of the graph carries nothing that was worked out
        hpa_cold, d3_cold = cold_ms(Hpa(), fresh[:3]), cold_ms(D3(), fresh[3:])
        hpa_partial, touched = partial_ms(Hpa(), steps)
        d3_partial, _ = partial_ms(D3(), steps)
        ratios = peers([problem for problem, _ in steps[::6]])
        rows.append(
            {
                "model": name,
                "vertices": len(graph),
                "hpa": shown(full_ms(Hpa(), steps)),
                "hpa cold": f"{hpa_cold:.2f}",
                "hpa partial": shown(hpa_partial),
                "touched": statistics.median(touched) if touched else 0,
                "d3": shown(full_ms(D3(), steps)),
                "d3 partial": shown(d3_partial),
                "d3 cold": f"{d3_cold:.1f}",
                "optimal": shown(full_ms(Optimal(), steps)),
                "optimal-tiles": shown(full_ms(OptimalTiles(), steps)),
                "networkx BK": f"{ratios['BK']:.0f} x optimal",
                "networkx preflow": f"{ratios['preflow']:.0f} x optimal",
            }
        )
    return rows


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=180).print(table(TITLE, run()))
