"""The network and the plan that the conformance checks run on."""

from __future__ import annotations

from typing import Any

from d3node.graph import INPUT, LayerGraph
from d3node.plan import Plan, Stack, Tile
from d3node.program import lower
from testbed.scenario.schema import Scenario

MODEL = "conformance.small_model:small"
MBIT = 1e6
ACCESS_BPS, LAN_BPS, BACKBONE_BPS, CORE_BPS = 40 * MBIT, 100 * MBIT, 10 * MBIT, 1000 * MBIT
ACCESS_S, LAN_S, BACKBONE_S = 0.002, 0.001, 0.01


def scenario(*, delays: bool = True, tensors: str = "real", **network: Any) -> Scenario:
    """Two devices, two edge hosts, a cloud; the backbone is the bottleneck; real tensors of a small model.

    `delays` False: all delays are 0, for kernels without netem.
    """
    links = {"access": (ACCESS_BPS, ACCESS_S), "lan": (LAN_BPS, LAN_S), "backbone": (BACKBONE_BPS, BACKBONE_S)}
    return Scenario.model_validate(
        {
            "name": "conformance",
            "model": {"names": [MODEL]},
            "topology": {"name": "three_tier", "devices": 2, "edges": 2},
            "links": {
                role: {"rate": f"{rate / MBIT:g} Mbit/s", "delay": f"{delay * 1e3 * delays:g} ms"}
                for role, (rate, delay) in links.items()
            },
            "compute": {"tensors": tensors},
            "network": network,
        }
    )


def plan(graph: LayerGraph, device: str = "d1", epoch: int = 1) -> Plan:
    """Input on the device; every spatial vertex in two tiles, one on each edge host; the rest in the cloud."""
    stack = tuple(v.index for v in graph if v.spatial is not None and v.index != INPUT)
    rows, columns = graph[stack[-1]].rows, graph[stack[-1]].columns
    half = rows // 2
    tiles = (Tile("e1", (0, half), (0, columns)), Tile("e2", (half, rows), (0, columns)))
    tiers = tuple("device" if v == INPUT else "edge" if v <= stack[-1] else "cloud" for v in range(len(graph)))
    hosts: Any = {"device": device, "edge": "e1", "cloud": "c1"}
    return Plan("conformance", graph.name, tiers, hosts, (Stack(stack, (2, 1), tiles),), epoch)  # type: ignore[arg-type]


def installed(graph: LayerGraph, planned: Plan, seconds: float) -> dict[str, Any]:
    """The fields of `install`; every step and every tile takes `seconds`."""
    return {
        "plan": planned.to_dict(),
        "steps_s": {tier: [seconds] * len(program.steps) for tier, program in lower(graph, planned).items()},
        "tiles_s": [[seconds] * len(stack.tiles) for stack in planned.stacks],
    }
