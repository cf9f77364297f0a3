"""IONN (Jeong et al., SoCC 2018): the server starts without the model; what to upload next is found by shortest paths.

Execution graph: of every block of the chain (`dominators.py`) there is the client's node, and an entry and an exit on the server.
Client to next client costs the client's time; entry to exit the server's time plus the time to upload the block's weights;
client to server and back the transfer of a feature; exit to next entry nothing. A shortest path from input to answer is the best
way to do one query; the blocks that it newly has on the server are the next part to upload. Then all upload times are multiplied
by K and the path is sought again, while K^n >= 0.01: so what gains much for few bytes goes first, and what never pays is never
sent. A query is done by the shortest path over what the server holds at that moment; the answer always comes back.

Restrictions, kept: two tiers (client and one server: `ionn_server`), one client, a chain of dominators, a bandwidth that is
measured once (no reaction to changes). A plan's notes have the length of its path (`path_s`), which counts the answer's way
back; D3's sum does not. Our choice: in a query, blocks that are not held cost infinity on the server (the paper
says that queries use what has been uploaded, not how); times of whole blocks are sums of their vertices'.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from d3node.graph import INPUT, LayerGraph
from d3node.plan import Plan, Tier
from d3node.weights import PIECE_BYTES, chunk_bytes, parameters_of
from testbed.costs.network import MESSAGE_HEADER_BYTES, Path, frame_bytes
from testbed.planners.base import Change, Decision, Problem, Uploads
from testbed.planners.dominators import blocks
from testbed.planners.objective import objective_s
from testbed.planners.options import read
from testbed.planners.prices import CLOUD, DEVICE, EDGE, make_plan

SMALLEST = 0.01
"""The rounds end when K^n falls below this (the paper's figure)."""
INFINITE = float("inf")


@dataclass(frozen=True)
class ExecutionGraph:
    """Edges of the execution graph in seconds: `client[i]`, `server[i]` to compute block i, `upload[i]` for its weights;
    `up[i]`, `down[i]` to move what block i reads (i = 0: the input) to the server or back, the last `down` for the answer."""

    blocks: tuple[tuple[int, ...], ...]
    client: tuple[float, ...]
    server: tuple[float, ...]
    upload: tuple[float, ...]
    up: tuple[float, ...]
    down: tuple[float, ...]

    def cost(self, on_server: Sequence[bool], scale: float = 0.0) -> float:
        """Length of the path that has these blocks on the server, upload times multiplied by `scale`."""
        total, before = 0.0, False
        for i, here in enumerate(on_server):
            if here != before:
                total += self.up[i] if here else self.down[i]
            total += self.server[i] + scale * self.upload[i] if here else self.client[i]
            before = here
        return total + (self.down[-1] if before else 0.0)

    def shortest(self, scale: float = 0.0, missing: Collection[int] = ()) -> tuple[bool, ...]:
        """Which blocks the shortest path has on the server; never one of `missing`. The client wins ties. O(blocks)."""
        client, server = 0.0, INFINITE
        came: list[tuple[bool, bool]] = []
        for i in range(len(self.blocks)):
            to_client, to_server = server + self.down[i] < client, client + self.up[i] > server
            came.append((to_client, to_server))
            before_client = min(client, server + self.down[i])
            before_server = min(server, client + self.up[i])
            client = before_client + self.client[i]
            server = INFINITE if i in missing else before_server + self.server[i] + scale * self.upload[i]
        here = server + self.down[-1] < client
        path = [False] * len(self.blocks)
        for i in reversed(range(len(self.blocks))):
            path[i] = here
            here = came[i][1] if here else came[i][0]
        return tuple(path)

    def rounds(self, k: float) -> tuple[tuple[int, ...], ...]:
        """Blocks in the order of their upload, one tuple for each round that found new ones."""
        parts: list[tuple[int, ...]] = []
        sent: set[int] = set()
        scale = 1.0
        while scale >= SMALLEST * (1.0 - 1e-9):
            new = tuple(i for i, here in enumerate(self.shortest(scale)) if here and i not in sent)
            if new:
                parts.append(new)
                sent.update(new)
            scale *= k
        return tuple(parts)


def upload_bytes(graph: LayerGraph, vertices: Collection[int]) -> int:
    """Application bytes of the weights of some vertices, about: a safetensors chunk each, and the headers of its messages."""
    total = 0
    for v in vertices:
        if graph[v].parameters:
            size = chunk_bytes(parameters_of(graph, (v,)))
            total += size + MESSAGE_HEADER_BYTES * -(-size // PIECE_BYTES)
    return total


def execution_graph(problem: Problem, tier: Tier) -> ExecutionGraph:
    """The execution graph of a problem for a server on some tier."""
    graph, costs, network = problem.graph, problem.costs, problem.network
    parts = blocks(graph)
    straight: Path = network.device_edge if tier == "edge" else network.device_cloud
    reads = [INPUT, *(part[-1] for part in parts[:-1])]
    answer = sum(network.transfer_s(graph[v].output_bytes, tier, "device") for v in graph.outputs)
    return ExecutionGraph(
        blocks=parts,
        client=tuple(costs.run_s(part, "device", problem.hosts["device"]) for part in parts),
        server=tuple(costs.run_s(part, tier, problem.hosts[tier]) for part in parts),
        upload=tuple(8.0 * frame_bytes(upload_bytes(graph, part)) / max(straight.rate_bps, 1e3) for part in parts),
        up=tuple(network.transfer_s(graph[v].output_bytes, "device", tier) for v in reads),
        down=(*(network.transfer_s(graph[v].output_bytes, tier, "device") for v in reads), answer),
    )


class Ionn:
    """Uploads while it serves."""

    name = "ionn"

    def plan(self, problem: Problem) -> Decision:
        """The shortest path over what the server holds now (all of the model where nothing is said of weights)."""
        tier = self._server(read(problem, self.name))
        found = execution_graph(problem, tier)
        away = problem.absent.get(problem.hosts[tier], frozenset())
        missing = {i for i, part in enumerate(found.blocks) if away.intersection(part)}
        path = found.shortest(0.0, missing)
        ranks = [DEVICE] * len(problem.graph)
        for part, here in zip(found.blocks, path, strict=True):
            for v in part if here else ():
                ranks[v] = EDGE if tier == "edge" else CLOUD
        notes = {"server": tier, "blocks_held": len(found.blocks) - len(missing), "path_s": found.cost(path)}
        back = any(ranks[u] > ranks[v] for u, v in problem.graph.edges)
        plan = replace(make_plan(self.name, problem, ranks, notes=notes), two_way=back)
        return Decision(plan, objective_s(problem, plan), frozenset(range(len(ranks))))

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """IONN does not react to changes: the same plan, at its new price."""
        read(problem, self.name)
        return Decision(current, objective_s(problem, current), frozenset())

    def uploads(self, problem: Problem) -> Uploads:
        """The parts, in the order in which they are uploaded."""
        values = read(problem, self.name)
        tier = self._server(values)
        found = execution_graph(problem, tier)
        parts = self._parts(found, values)
        return Uploads(tier, tuple(tuple(v for i in part for v in found.blocks[i]) for part in parts))

    def _parts(self, found: ExecutionGraph, values: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
        return found.rounds(values["ionn_k"])

    def _server(self, values: dict[str, Any]) -> Tier:
        return cast(Tier, values["ionn_server"])


class IonnAllAtOnce(Ionn):
    """The paper's baseline: the whole model in one go, and every query on the client until it is there."""

    name = "ionn-all"

    def _parts(self, found: ExecutionGraph, values: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(len(found.blocks))),)
