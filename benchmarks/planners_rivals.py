"""Planning time of the rivals per model of the zoo, and the exact cut against networkx's maximum flows on the same network.

The problems, the walk over 24 networks and the way to measure are those of `planners.py`. QDMP finds DSL's optimum on the same
two tiers. networkx's best: the fastest of its algorithms for each problem (every sixth), its network already built; all must
find the optimum that `optimal` finds. DSH makes hundreds of cuts and is measured on every sixth network.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any

import networkx as nx

from benchmarks.planners import MODELS, best_ms, full_ms, problem_of, shown, walk
from d3node.model import ModelSpec, load_graph
from testbed.planners.base import Problem
from testbed.planners.dads import Dads
from testbed.planners.mincut import flow_network, price_vector
from testbed.planners.neurosurgeon import Neurosurgeon
from testbed.planners.optimal import Optimal
from testbed.planners.prices import prices
from testbed.planners.qdmp import Qdmp
from testbed.planners.yardsticks import Greedy

TITLE = "Planning time of the rivals in ms, median / worst over 24 networks"


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
        dsl, qdmp = full_ms(Dads(), steps), full_ms(Qdmp(), steps)
        heavy = [(replace(problem, options={"load": "heavy"}), change) for problem, change in steps[::6]]
        ratio, fastest = peers([problem for problem, _ in steps[::6]])
        rows.append(
            {
                "model": name,
                "vertices": len(graph),
                "neurosurgeon": shown(full_ms(Neurosurgeon(), steps)),
                "greedy": shown(full_ms(Greedy(), steps)),
                "dads dsl": shown(dsl),
                "qdmp": shown(qdmp),
                "qdmp / dsl": f"{beside(qdmp, dsl):.2f}",
                "dads dsh": shown(full_ms(Dads(), heavy)),
                "optimal": shown(full_ms(Optimal(), steps)),
                "networkx best": f"{ratio:.0f} x optimal",
                "which": fastest,
            }
        )
    return rows


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=170).print(table(TITLE, run()))
