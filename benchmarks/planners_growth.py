"""How planning time grows with the graph: random layered DAGs of 100, 1,000 and 10,000 vertices, walked over the 24 networks of
`benchmarks/planners.py`.

A layer has one to four vertices; each reads one or two of the layer before, one in ten also a tensor from two or three layers
back. The work of the whole graph is the same at every size, so that the cut has somewhere to go. Milliseconds, medians over the
networks (every sixth for what takes long); networkx by its fastest algorithms on the zoo, with their network already built, on
one problem at 10,000 vertices. DSH makes hundreds of cuts and is left out there.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from typing import Any

from benchmarks.planners import full_ms, partial_ms, problem_of, walk
from benchmarks.planners_rivals import peers
from d3node.graph import LayerGraph, Vertex
from testbed.planners.base import Change, Planner, Problem
from testbed.planners.dads import Dads
from testbed.planners.hpa import Hpa
from testbed.planners.neurosurgeon import Neurosurgeon
from testbed.planners.optimal import Optimal
from testbed.planners.qdmp import Qdmp

TITLE = "Planning time in ms, median over the networks, by size of a random layered DAG"
SIZES = (100, 1_000, 10_000)
TOTAL_FLOP = 30e9
FAST_AT_NETWORKX = ("boykov_kolmogorov", "preflow_push")
FASTEST_AT_SCALE = ("preflow_push",)


def layered_graph(size: int, seed: int = 1) -> LayerGraph:
    """A random DAG of layers one to four wide."""
    rng = random.Random(f"{size} {seed}")
    vertices = [Vertex(0, "input", "input", (), (1, 3, 224, 224), 602_112)]
    layers: list[list[int]] = [[0]]
    while len(vertices) < size:
        layer = list(range(len(vertices), min(len(vertices) + rng.randint(1, 4), size)))
        reads = {v: set(rng.sample(layers[-1], min(len(layers[-1]), rng.choice((1, 1, 2))))) for v in layer}
        for u in layers[-1]:
            if not any(u in inputs for inputs in reads.values()):
                reads[rng.choice(layer)].add(u)  # nobody is left unread before the end
        for v, inputs in reads.items():
            if len(layers) > 3 and rng.random() < 0.1:
                inputs.add(rng.choice(layers[-rng.choice((2, 3))]))
            flops = int(rng.expovariate(size / TOTAL_FLOP))
            output_bytes = int(10 ** rng.uniform(4.5, 6.5))
            vertices.append(Vertex(v, f"v{v}", "conv2d", tuple(sorted(inputs)), (1, 8), output_bytes, flops))
        layers.append(layer)
    used = {u for vertex in vertices for u in vertex.inputs}
    return LayerGraph(f"layered{size}", tuple(vertices), tuple(v for v in range(1, len(vertices)) if v not in used))


def median(planner: Planner, steps: list[tuple[Problem, Change]]) -> float:
    """Median milliseconds of full plans."""
    return statistics.median(full_ms(planner, steps))


def run() -> list[dict[str, Any]]:
    """One row per size."""
    rows = []
    for size in SIZES:
        graph = layered_graph(size)
        steps = list(walk(problem_of(graph)))
        some = steps[::6]
        times, gains, touched = partial_ms(Hpa(), graph, 1 if size > 1_000 else 3)
        heavy = [(replace(problem, options={"load": "heavy"}), change) for problem, change in some]
        dsl, qdmp = full_ms(Dads(), some), full_ms(Qdmp(), some)
        ratio, fastest = (
            peers([problem for problem, _ in some], FAST_AT_NETWORKX) if size <= 1_000 else peers([some[1][0]], FASTEST_AT_SCALE)
        )
        rows.append(
            {
                "vertices": size,
                "hpa": median(Hpa(), steps),
                "hpa partial": statistics.median(times),
                "worst": max(times),
                "full / partial": statistics.median(gains),
                "touched": statistics.median(touched),
                "neurosurgeon": median(Neurosurgeon(), some),
                "dads dsl": statistics.median(dsl),
                "qdmp": statistics.median(qdmp),
                "qdmp / dsl": statistics.median(q / d for q, d in zip(qdmp, dsl, strict=True)),
                "dads dsh": median(Dads(), heavy) if size <= 1_000 else "-",
                "optimal": median(Optimal(), some),
                "networkx best": f"{ratio:.0f} x optimal",
                "which": fastest,
            }
        )
    return rows


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=200).print(table(TITLE, run()))
