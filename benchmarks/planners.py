"""Planning time per model of the zoo, and the exact cut against networkx's maximum flows on the same network.

Costs: a Raspberry Pi 4, four edge hosts of Jetson TX2 class on a 1 Gbit/s LAN, a GPU cloud (`testbed/costs/devices`). Every
planner walks over 24 networks (access 10 to 400 Mbit/s, backbone 2 to 200 Mbit/s), one link changing at a time, so that the
cut moves; the figures are the median and the worst of the walk's steps, each step the best of three. Partial re-partitions are
timed along three walks on fresh copies of the graph, so that each knows what its own past taught it and no more, and where
they touch something. "cold" is the first plan for a graph nobody has planned for yet. Ratios are medians of the steps'.
networkx's best: the fastest of its algorithms for each problem, its network already built; all must find the same optimum.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Collection, Iterator
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
from testbed.planners.dads import Dads
from testbed.planners.hpa import Hpa
from testbed.planners.mincut import flow_network, price_vector
from testbed.planners.neurosurgeon import Neurosurgeon
from testbed.planners.optimal import Optimal, OptimalTiles
from testbed.planners.prices import prices
from testbed.planners.qdmp import Qdmp

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


ALGORITHMS = {
    "boykov_kolmogorov": nx.algorithms.flow.boykov_kolmogorov,
    "preflow_push": nx.algorithms.flow.preflow_push,
    "dinitz": nx.algorithms.flow.dinitz,
    "shortest_augmenting_path": nx.algorithms.flow.shortest_augmenting_path,
}


def peers(problems: list[Problem], algorithms: Collection[str] = tuple(ALGORITHMS)) -> tuple[float, str]:
    """Seconds of networkx's fastest algorithm (network already built) over those of `optimal` (everything), median over problems;
    and the algorithm that was fastest most often. Raises RuntimeError where one finds another optimum."""
    ratios, fastest = [], []
    for problem in problems:
        flow = networkx_flow(problem)
        own_ms = best_ms(partial(Optimal().plan, problem))
        objective = Optimal().plan(problem).objective_s
        spent: dict[str, float] = {}
        for name in algorithms:
            start = time.perf_counter()
            value, _ = nx.minimum_cut(flow, 0, 1, flow_func=ALGORITHMS[name])
            spent[name] = 1e3 * (time.perf_counter() - start)
            if abs(value / 1e9 - objective) > 1e-9 * 6 * len(problem.graph):  # every price is rounded to a nanosecond
                raise RuntimeError(
                    f"networkx {name} finds another optimum for {problem.graph.name}: {value} ns, not {objective} s"
                )
        fastest.append(min(spent, key=spent.__getitem__))
        ratios.append(spent[fastest[-1]] / own_ms)
    return statistics.median(ratios), statistics.mode(fastest)


def beside(one: list[float], other: list[float]) -> float:
    """Median ratio of two planners' times, step by step."""
    return statistics.median([a / b for a, b in zip(one, other, strict=True)])


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
        dsl, qdmp = full_ms(Dads(), steps), full_ms(Qdmp(), steps)
        heavy = [(replace(problem, options={"load": "heavy"}), change) for problem, change in steps[::6]]
        ratio, fastest = peers([problem for problem, _ in steps[::6]])
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
                "neurosurgeon": shown(full_ms(Neurosurgeon(), steps)),
                "dads dsl": shown(dsl),
                "qdmp": shown(qdmp),
                "qdmp / dsl": f"{beside(qdmp, dsl):.2f}",
                "dads dsh": shown(full_ms(Dads(), heavy)),
                "optimal": shown(full_ms(Optimal(), steps)),
                "optimal-tiles": shown(full_ms(OptimalTiles(), steps)),
                "networkx best": f"{ratio:.0f} x optimal",
                "which": fastest,
            }
        )
    return rows


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=260).print(table(TITLE, run()))
