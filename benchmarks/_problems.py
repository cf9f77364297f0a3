"""Planning problems that several benchmarks share: the zoo's models and random layered DAGs, over 24 networks.

Costs: a Raspberry Pi 4, four edge hosts of Jetson TX2 class on a 1 Gbit/s LAN, a GPU cloud (`testbed/costs/devices`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from d3node.graph import LayerGraph, Vertex
from d3node.plan import Tier
from testbed.costs import devices
from testbed.costs.network import NetworkState, Path
from testbed.costs.table import Costs
from testbed.planners.base import Change, Problem

MODELS = ("alexnet", "vgg16", "resnet18", "darknet53", "inception_v4")
PROFILES: dict[Tier, str] = {"device": "raspberry-pi-4", "edge": "jetson-tx2", "cloud": "rtx-2080-ti"}
TOTAL_FLOP = 30e9


def problem_of(graph: LayerGraph) -> Problem:
    """The benchmarks' problem for a graph."""
    costs = Costs({tier: devices.tier_costs(name, graph) for tier, name in PROFILES.items()})
    lan = {f"e{i}": Path(1e9, 2e-4) for i in (2, 3, 4)}
    network = NetworkState(Path(85e6, 0.002), Path(30e6, 0.02), Path(30e6, 0.022), lan)
    return Problem(graph, costs, network, {"device": "d1", "edge": "e1", "cloud": "c"}, ("e1", "e2", "e3", "e4"))


def walk(problem: Problem) -> Iterator[tuple[Problem, Change]]:
    """The problem on 24 networks (access 10 to 400 Mbit/s, backbone 2 to 200 Mbit/s), one link changing from each to the next,
    and that change."""
    before = problem
    for i, access in enumerate((10e6, 25e6, 85e6, 400e6)):
        backbones = (2e6, 5e6, 13e6, 31e6, 80e6, 200e6)
        for backbone in backbones if i % 2 == 0 else reversed(backbones):
            state = replace(problem.network, device_edge=Path(access, 0.002), edge_cloud=Path(backbone, 0.02))
            names = [n for n in ("device_edge", "edge_cloud") if getattr(state, n) != getattr(before.network, n)]
            before = replace(problem, network=state)
            yield before, Change(paths=frozenset(names))


def layered_graph(size: int, seed: int = 1) -> LayerGraph:
    """A random DAG of layers one to four wide, each vertex reading one or two of the layer before, one in ten also a tensor from
    two or three layers back. The work of the whole graph is the same at every size, so that the cut has somewhere to go."""
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
