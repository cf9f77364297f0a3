"""Planning time of every exact and heuristic planner on the zoo's models and on random graphs, against its targets.

All times are medians over the networks of `_problems.walk`, in ms, one thread, with what the planner keeps of a graph in place
(but "first plan"). Garbage collection is off.

Partial re-partition against full: two sessions meet the same conditions one after the other, one answered by `replan`, one by
`plan`, each on a copy of the graph and of its costs of its own and each condition once; the least of some rounds counts, and the
figure is the median of the steps' ratios ("all": the whole session's times). A full pass is what the control loop calls with
`planning.replan = "full"`: it is given the same problem, and may keep what it likes between calls as well. At each of the 24
networks ("jump": a link's rate times 2 to 20) small changes follow, such as leave D3's band: the backbone's or the access link's
rate by a quarter, the cloud's or the edge's speed by a fifth, one layer's time by a half.

networkx: the fastest of its maximum flows on `optimal`'s network, already built, over all of `optimal`; every sixth network (one
beyond 1,000 vertices, by the algorithm that is fastest there). DSH makes hundreds of cuts and is measured on every sixth network.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import networkx as nx

from benchmarks._problems import MODELS, layered_graph, problem_of, walk
from d3node.graph import LayerGraph
from d3node.model import ModelSpec, load_graph
from testbed.costs.network import Path
from testbed.planners.base import Change, Planner, Problem
from testbed.planners.d3 import D3
from testbed.planners.dads import Dads
from testbed.planners.hpa import Hpa
from testbed.planners.mincut import flow_network, price_vector
from testbed.planners.neurosurgeon import Neurosurgeon
from testbed.planners.optimal import Optimal, OptimalTiles
from testbed.planners.prices import prices
from testbed.planners.qdmp import Qdmp
from testbed.planners.yardsticks import Greedy

TITLE = "Planning time in ms (medians over 24 networks), ratios and their (targets); n: random layered DAG of so many vertices"
SIZES = (100, 1_000, 10_000)
SMALL = 1_000
ROUNDS = 5
ALGORITHMS = {
    "boykov_kolmogorov": nx.algorithms.flow.boykov_kolmogorov,
    "preflow_push": nx.algorithms.flow.preflow_push,
    "dinitz": nx.algorithms.flow.dinitz,
    "shortest_augmenting_path": nx.algorithms.flow.shortest_augmenting_path,
}
KINDS = ("link", "host", "layer", "jump")

Step = tuple[str, Problem, Change]


def best_ms(action: Callable[[], object], repeats: int = 3) -> float:
    """Least milliseconds of an action."""
    times = []
    gc.disable()
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(1e3 * (time.perf_counter() - start))
    gc.enable()
    return min(times)


def full_ms(planner: Planner, problems: Sequence[Problem]) -> list[float]:
    """Milliseconds of a full plan on every network."""
    planner.plan(problems[0])
    return [best_ms(partial(planner.plan, problem)) for problem in problems]


def changes(problem: Problem) -> Iterator[Step]:
    """Kind, new conditions and change, one after the other."""
    middle = len(problem.graph) // 2
    for jump, change in walk(problem):
        yield "jump", jump, change
        now = jump
        for name, share in (("edge_cloud", 0.75), ("edge_cloud", 1.25), ("device_edge", 0.75), ("device_edge", 1.25)):
            base = getattr(jump.network, name)
            now = replace(now, network=now.network.with_path(name, Path(share * base.rate_bps, base.delay_s)))
            yield "link", now, Change(paths=frozenset({name}))
        for tier in ("cloud", "edge"):
            host = now.hosts[tier]
            now = replace(now, costs=replace(now.costs, speed={**now.costs.speed, host: 0.8}))
            yield "host", now, Change(hosts=frozenset({host}))
        now = replace(jump, network=now.network)  # at their own speed again
        yield "host", now, Change(hosts=frozenset({now.hosts["cloud"], now.hosts["edge"]}))
        for v in (middle, middle + 1):
            factor = {**now.costs.factor, **{(v, tier): 1.5 for tier in ("device", "edge", "cloud")}}
            now = replace(now, costs=replace(now.costs, factor=factor))
            yield "layer", now, Change(vertices=frozenset({v}))


def session(planner: Planner, graph: LayerGraph, partially: bool) -> list[tuple[str, float]]:
    """Kind and milliseconds of every step of a session on a copy of the graph."""
    steps = list(changes(problem_of(replace(graph))))
    current = planner.plan(steps[0][1]).plan
    found = []
    gc.disable()
    for kind, problem, change in steps[1:]:
        start = time.perf_counter()
        decision = planner.replan(problem, current, change) if partially else planner.plan(problem)
        found.append((kind, 1e3 * (time.perf_counter() - start)))
        current = decision.plan
    gc.enable()
    return found


def partial_ms(planner: Planner, graph: LayerGraph, rounds: int) -> dict[str, tuple[float, float]]:
    """By kind of change: median milliseconds of a partial re-partition, and of the ratio of a full pass to it; under "all" the
    mean, and the ratio of the sums."""
    ways = [[session(planner, graph, partially) for _ in range(rounds)] for partially in (True, False)]
    short, full = ([min(times) for times in zip(*([ms for _, ms in one] for one in way), strict=True)] for way in ways)
    kinds = [kind for kind, _ in ways[0][0]]
    found = {}
    for wanted in KINDS:
        pairs = [(s, f) for kind, s, f in zip(kinds, short, full, strict=True) if kind == wanted]
        found[wanted] = statistics.median(s for s, _ in pairs), statistics.median(f / s for s, f in pairs)
    found["all"] = statistics.mean(short), sum(full) / sum(short)
    return found


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


def peers(problems: Sequence[Problem], algorithms: Collection[str]) -> tuple[float, float, str]:
    """Milliseconds of networkx's fastest algorithm, their ratio to those of `optimal`, medians over problems, and the algorithm
    that was fastest most often. Raises RuntimeError where one finds another optimum."""
    times, ratios, fastest = [], [], []
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
        times.append(spent[fastest[-1]])
        ratios.append(times[-1] / own_ms)
    return statistics.median(times), statistics.median(ratios), statistics.mode(fastest)


def against(value: float, target: float, least: bool = True) -> str:
    """A ratio, and whether it meets its target."""
    met = value >= target if least else value <= target
    return f"{value:.3g} {'pass' if met else 'MISS'}"


def shown(ms: float) -> str:
    """Milliseconds with three figures."""
    return f"{ms:.3g}"


def column(graph: LayerGraph) -> dict[str, str]:
    """All figures of one graph, by row."""
    size = len(graph)
    problems = [problem for problem, _ in walk(problem_of(graph))]
    some = problems[::6]
    used = problems if size <= SMALL else some
    zoo = graph.name in MODELS
    found: dict[str, str] = {"vertices": str(size), "hpa, full pass": shown(statistics.median(full_ms(Hpa(), used)))}
    hpa = partial_ms(Hpa(), graph, ROUNDS if size <= SMALL else 1)
    for kind, (ms, _) in hpa.items():
        found[f"hpa partial, {kind}"] = shown(ms)
    found["d3, full pass"] = shown(statistics.median(full_ms(D3(), used))) if zoo else "-"
    d3 = partial_ms(D3(), graph, 3) if zoo else {}
    found["d3 partial, link"] = shown(d3["link"][0]) if zoo else "-"
    fresh = [problem_of(replace(graph)) for _ in range(3)]  # a copy of the graph carries nothing that was worked out
    found["d3, first plan of a graph"] = shown(min(best_ms(partial(D3().plan, p), 1) for p in fresh)) if zoo else "-"
    found["neurosurgeon"] = shown(statistics.median(full_ms(Neurosurgeon(), used)))
    found["greedy"] = shown(statistics.median(full_ms(Greedy(), used))) if zoo else "-"
    dsl, qdmp = full_ms(Dads(), used), full_ms(Qdmp(), used)
    found["dads (DSL)"] = shown(statistics.median(dsl))
    heavy = [replace(problem, options={"load": "heavy"}) for problem in some]
    found["dads (DSH)"] = shown(statistics.median(full_ms(Dads(), heavy))) if size <= SMALL else "-"
    found["qdmp"] = shown(statistics.median(qdmp))
    found["optimal"] = shown(statistics.median(full_ms(Optimal(), used)))
    found["optimal-tiles"] = shown(statistics.median(full_ms(OptimalTiles(), some))) if zoo else "-"
    if size <= SMALL:
        ms, ratio, fastest = peers(some, tuple(ALGORITHMS) if zoo else ("boykov_kolmogorov", "preflow_push"))
    else:
        ms, ratio, fastest = peers(problems[1:2], ("preflow_push",))
    found["networkx's best"] = shown(ms)
    found["which"] = fastest
    for kind, (_, gain) in hpa.items():
        found[f"hpa: full / partial, {kind} (>= 10)"] = against(gain, 10.0)
    for kind in ("link", "all"):
        found[f"d3: full / partial, {kind} (>= 10)"] = against(d3[kind][1], 10.0) if zoo else "-"
    found["qdmp / dads (DSL) (<= 1)"] = against(
        statistics.median(q / d for q, d in zip(qdmp, dsl, strict=True)), 1.0, least=False
    )
    found["networkx's best / optimal (>= 10)"] = against(ratio, 10.0)
    return found


def run() -> list[dict[str, Any]]:
    """One row per planner and target, one column per graph."""
    graphs = {name: load_graph(ModelSpec(name)) for name in MODELS}
    graphs |= {f"n={size:,}": layered_graph(size) for size in SIZES}
    columns = {name: column(graph) for name, graph in graphs.items()}
    return [{"": row, **{name: found[row] for name, found in columns.items()}} for row in columns[MODELS[0]]]


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=190).print(table(TITLE, run()))
