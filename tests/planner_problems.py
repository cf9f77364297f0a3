"""Random planning problems for the planners' tests: small DAGs, costs, rates and speeds, all from a seed."""

from __future__ import annotations

import random

from d3node.graph import LayerGraph, Spatial, Vertex
from d3node.program import Route
from testbed.costs.network import NetworkState, Path
from testbed.costs.table import Costs, TierCosts
from testbed.planners.base import Problem

EDGES = ("e1", "e2", "e3", "e4")
HOSTS = {"device": "d1", "edge": "e1", "cloud": "c"}


def random_graph(rng: random.Random, size: int) -> LayerGraph:
    """A DAG of `size` vertices; about a third of the vertices have two or three producers, dead ends are outputs."""
    vertices = [Vertex(0, "input", "input", (), (1, 3, 8, 8), rng.randint(500, 200_000))]
    for v in range(1, size):
        wanted = min(v, rng.choice((1, 1, 1, 2, 2, 3)))
        recent = range(max(0, v - 3), v) if rng.random() < 0.6 else range(v)
        inputs = tuple(sorted(rng.sample(list(recent), min(wanted, len(recent)))))
        vertices.append(Vertex(v, f"v{v}", "conv2d", inputs, (1, 4, 8, 8), rng.choice((1, 100, 5_000, 60_000, 400_000))))
    used = {u for vertex in vertices for u in vertex.inputs}
    outputs = tuple(v for v in range(1, size) if v not in used) or (size - 1,)
    return LayerGraph("random", tuple(vertices), outputs)


def random_costs(rng: random.Random, size: int, *, ordered: bool = True) -> Costs:
    """Device slower than edge slower than cloud on average; not on every vertex unless the dice say so."""
    base = [rng.expovariate(1.0) * 0.02 for _ in range(size)]
    tiers = {}
    for tier, pace in (("device", 6.0), ("edge", 2.0), ("cloud", 0.5)):
        scaled = [0.0] + [seconds * pace * (1.0 if ordered else rng.uniform(0.2, 3.0)) for seconds in base[1:]]
        fixed = [0.0] + [rng.uniform(0.0, 2e-4)] * (size - 1)
        tiers[tier] = TierCosts(tuple(fixed), tuple(scaled), "random")
    speed = {host: rng.choice((0.5, 1.0, 1.0, 2.0)) for host in (*HOSTS.values(), *EDGES)}
    return Costs(tiers, speed)  # type: ignore[arg-type]


def random_network(rng: random.Random, route: Route = "relay") -> NetworkState:
    """Rates over two decades, delays up to 20 ms; a direct path sometimes cheaper than the two hops, sometimes not."""

    def path(low: float, high: float, delay: float) -> Path:
        return Path(low * (high / low) ** rng.random(), rng.uniform(0.0, delay))

    lan = {host: path(1e8, 1e9, 5e-4) for host in EDGES[1:]}
    return NetworkState(path(2e6, 2e8, 0.005), path(1e6, 1e8, 0.02), path(5e5, 1e8, 0.03), lan, route)


def random_problem(seed: int, *, route: Route = "relay", ordered: bool = True, size: int | None = None) -> Problem:
    """A whole problem from one seed."""
    rng = random.Random(seed)
    size = size or rng.randint(2, 9)
    return Problem(
        random_graph(rng, size), random_costs(rng, size, ordered=ordered), random_network(rng, route), dict(HOSTS), EDGES
    )


def spatial_graph(rng: random.Random, blocks: int, *, side: int = 32) -> LayerGraph:
    """A small CNN: convolutions, pools, residual adds and concats of branches, then a global pool and a classifier."""
    vertices = [Vertex(0, "input", "input", (), (1, 3, side, side), 4 * 3 * side * side)]

    def put(operator: str, inputs: tuple[int, ...], channels: int, spatial: Spatial | None, stride: int = 1) -> int:
        height = 1 if spatial is None else max(1, vertices[inputs[0]].output_shape[-2] // stride)
        shape = (1, channels, height, height) if spatial is not None else (1, channels)
        size = 4 * channels * height * height
        flops = 0 if spatial is None else 2 * channels * height * height * 9 * 8
        v = len(vertices)
        vertices.append(Vertex(v, f"{operator}{v}", operator, inputs, shape, size, flops, spatial=spatial))
        return v

    def conv(source: int, channels: int, kernel: tuple[int, int] = (3, 3), stride: int = 1) -> int:
        padding = (kernel[0] // 2, kernel[1] // 2)
        return put("conv2d", (source,), channels, Spatial("window", kernel, (stride, stride), padding), stride)

    last, channels = conv(0, 8), 8
    for _ in range(blocks):
        kind = rng.choice(("conv", "pool", "residual", "branches"))
        if kind == "conv":
            last = conv(last, channels)
        elif kind == "pool" and vertices[last].output_shape[-1] >= 8:
            last = put("max_pool2d", (last,), channels, Spatial("window", (2, 2), (2, 2), (0, 0)), 2)
        elif kind == "residual":
            inner = conv(conv(last, channels), channels)
            last = put("add", (last, inner), channels, Spatial("add"))
        else:
            branches = [conv(last, channels // 2, (1, 1)), conv(conv(last, channels // 2, (1, 7)), channels // 2, (7, 1))]
            last = put("cat", tuple(branches), channels, Spatial("concat"))
    pooled = put("adaptive_avg_pool2d", (last,), channels, None)
    answer = put("linear", (pooled,), 10, None)
    return LayerGraph("spatial", tuple(vertices), (answer,))


def spatial_problem(seed: int, *, blocks: int | None = None, hosts: int = 4, side: int = 32, pace: float = 1.0) -> Problem:
    """A tileable problem: costs follow the size of the maps, the edge LAN is fast."""
    rng = random.Random(seed)
    graph = spatial_graph(rng, blocks or rng.randint(1, 5), side=side)
    work = [0.0] + [vertex.output_bytes * 1e-6 * pace * rng.uniform(0.5, 2.0) for vertex in graph.vertices[1:]]
    tiers = {
        tier: TierCosts((0.0, *[2e-5] * (len(graph) - 1)), tuple(w * factor for w in work), "by size")
        for tier, factor in (("device", 4.0), ("edge", 1.0), ("cloud", 0.2))
    }
    names = EDGES[:hosts]
    speed = {host: rng.choice((0.5, 1.0, 1.0, 2.0)) for host in names}
    lan = {host: Path(rng.choice((2e8, 1e9)), 1e-4) for host in names[1:]}
    network = NetworkState(Path(rng.choice((2e7, 1e8, 4e8)), 0.002), Path(rng.choice((2e6, 3e7)), 0.02), Path(5e6, 0.03), lan)
    return Problem(graph, Costs(tiers, speed), network, dict(HOSTS), names)  # type: ignore[arg-type]
