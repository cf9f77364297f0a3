"""A plan: the tier of every vertex, and for the edge tier the stacks that several hosts compute in tiles.

Plain, frozen data, JSON in and out. What a host has to do for a plan is worked out in `d3node.program`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from d3node.codings import CODINGS, Coding
from d3node.errors import PlanError
from d3node.exits import METRICS, Exit, stages
from d3node.graph import INPUT, LayerGraph, Pair

Tier = Literal["device", "edge", "cloud"]
TIERS: tuple[Tier, ...] = get_args(Tier)
RANK: dict[Tier, int] = {tier: rank for rank, tier in enumerate(TIERS)}
"""Order of the tiers: data flows from lower to higher rank only."""

Handover = Literal["leader", "relay", "neighbours"]
"""Where a stack's output map goes: whole to the leader; or it stays on its hosts, tile by tile, for the next stack of the plan,
and only what a host lacks of it travels, by way of the leader ("relay") or straight from the host that has it ("neighbours")."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a stack's output map: half-open row and column ranges, and the host that computes it."""

    host: str
    rows: Pair
    columns: Pair

    @property
    def empty(self) -> bool:
        """True when the tile covers nothing (more tiles than rows, or a host with no share)."""
        return self.rows[0] >= self.rows[1] or self.columns[0] >= self.columns[1]


@dataclass(frozen=True, slots=True)
class Stack:
    """A convex run of spatial vertices, ascending, with one output vertex (the last).

    It is computed as `grid` = (A, B) tiles, row-major. `stealing`: a tile's host is only where it belongs to begin with, any of
    the stack's hosts that is idle may take it; `reuse`: what a finished tile has computed of its neighbours' maps is not
    computed again. With either, hosts fetch their tiles one by one (`d3node.pool`) instead of being sent them.
    """

    vertices: tuple[int, ...]
    grid: Pair
    tiles: tuple[Tile, ...]
    stealing: bool = False
    reuse: bool = False
    handover: Handover = "leader"

    @property
    def output(self) -> int:
        """The vertex whose map is cut into tiles."""
        return self.vertices[-1]

    @property
    def pooled(self) -> bool:
        """True when hosts fetch the tiles of this stack."""
        return self.stealing or self.reuse


@dataclass(frozen=True)
class Plan:
    """Where every vertex runs, for the requests of one device.

    `tiers[v]` is the tier of vertex v; `hosts` names the host that leads each of the three tiers for this device (its own
    name for "device"); `epoch` is unique within a run; `planner` and `model` are names. `two_way`: tensors may also flow back to
    the device (IONN); such a plan uses the device and one other tier, without stacks.

    What lossy systems add (all may be left out). `exits`: outputs that may end the request, in the order in which they are
    asked; the last answers in any case, and what none of them needs is not computed. Without them the answer is every output.
    `coding`: how tensors cross between tiers (`d3node.codec`); `coded_bytes`: (vertex, expected size), where only sizes travel.
    `placed`: (vertex, host) for vertices of the device tier that other devices compute, each from its own view of the input.
    `patience_s`: how long a leading host waits for tensors of devices before it goes on with what blank views would have made.
    `fallback_s`: after so long the device answers with the last of its own exits.

    `done`: vertices, ascending, that are not computed under this plan, because their tensors exist or nobody needs them; one
    that is needed is held by the leading host of its tier, which may be any. So a request goes on that another plan has begun.
    """

    planner: str
    model: str
    tiers: tuple[Tier, ...]
    hosts: dict[Tier, str]
    stacks: tuple[Stack, ...] = ()
    epoch: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    two_way: bool = False
    exits: tuple[Exit, ...] = ()
    coding: Coding = "float32"
    coded_bytes: tuple[Pair, ...] = ()
    placed: tuple[tuple[int, str], ...] = ()
    patience_s: float | None = None
    fallback_s: float | None = None
    done: tuple[int, ...] = ()

    @property
    def lossless(self) -> bool:
        """True when the plan promises the whole model's own answer."""
        return not self.exits and self.coding == "float32"

    def host_of(self, vertex: int) -> str:
        """The host that computes a vertex (of a stack: that leads it)."""
        return dict(self.placed).get(vertex, self.hosts[self.tiers[vertex]])

    def with_epoch(self, epoch: int) -> Plan:
        """The same plan under another epoch number."""
        return replace(self, epoch=epoch)

    def renamed(self, hosts: Mapping[str, str]) -> Plan:
        """The same plan for other hosts, given as old name -> new name; those that are not given keep their names."""
        tiled = [
            replace(stack, tiles=tuple(replace(tile, host=hosts.get(tile.host, tile.host)) for tile in stack.tiles))
            for stack in self.stacks
        ]
        return replace(
            self,
            hosts={tier: hosts.get(host, host) for tier, host in self.hosts.items()},
            stacks=tuple(tiled),
            placed=tuple((v, hosts.get(host, host)) for v, host in self.placed),
        )

    def same_placement(self, other: Plan) -> bool:
        """True when nothing that a host does would differ."""
        return (
            self.tiers == other.tiers
            and self.stacks == other.stacks
            and self.hosts == other.hosts
            and (self.exits, self.coding, self.placed) == (other.exits, other.coding, other.placed)
            and (self.patience_s, self.fallback_s, self.done) == (other.patience_s, other.fallback_s, other.done)
        )

    def part(self, tier: Tier) -> tuple[int, ...]:
        """Vertices on a tier, ascending (the input vertex included for the device)."""
        return tuple(v for v, placed in enumerate(self.tiers) if placed == tier)

    def chains(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the stacks in groups that hand over to one another without the leader; most groups are one stack."""
        found: list[tuple[int, ...]] = []
        group: tuple[int, ...] = ()
        for index, stack in enumerate(self.stacks):
            group = (*group, index)
            if stack.handover == "leader":
                found.append(group)
                group = ()
        return (*found, group) if group else tuple(found)

    def check(self, graph: LayerGraph) -> None:
        """Raise PlanError unless the plan is legal for the graph: input on the device, one-way flow, sound stacks."""
        if len(self.tiers) != len(graph):
            raise PlanError(
                f"plan of {self.planner!r} has {len(self.tiers)} tiers for the {len(graph)} vertices of {graph.name!r}"
            )
        done = self._check_done(graph)
        if self.tiers[INPUT] != "device" and INPUT not in done:
            raise PlanError("the input vertex belongs to the device")
        if self.two_way and (len(set(self.tiers)) > 2 or self.stacks):
            raise PlanError("a plan in which data flows both ways uses the device and one other tier, without stacks")
        for producer, consumer in graph.edges:
            if not self.two_way and consumer not in done and RANK[self.tiers[producer]] > RANK[self.tiers[consumer]]:
                raise PlanError(
                    f"data may only flow device -> edge -> cloud, but {graph[producer].name!r} on {self.tiers[producer]}"
                    f" feeds {graph[consumer].name!r} on {self.tiers[consumer]}"
                )
        if missing := [tier for tier in TIERS if tier not in self.hosts]:
            raise PlanError(f"the plan names no host for: {', '.join(missing)}")
        taken: set[int] = set()
        for stack in self.stacks:
            self._check_stack(graph, stack, taken)
            taken.update(stack.vertices)
        for chain in self.chains():
            self._check_chain(graph, chain)
        self._check_placed(graph)
        if self.exits:
            self._check_exits(graph)
        if self.two_way and (self.exits or self.placed):
            raise PlanError("a plan in which data flows both ways has no exits and one device")
        if self.coding not in CODINGS:
            raise PlanError(f"tensors can be coded as {', '.join(CODINGS)}, not as {self.coding!r}")
        if self.fallback_s is not None and not any(self.tiers[e.vertex] == "device" for e in self.exits):
            raise PlanError("a plan without an exit on the device has no answer of its own to fall back on")

    def _check_done(self, graph: LayerGraph) -> frozenset[int]:
        """Only whole tensors of lossless, one-way plans can be gone on from."""
        done = frozenset(self.done)
        if list(self.done) != sorted(done) or not done <= set(range(len(graph))):
            raise PlanError(f"the vertices that are done must be ascending and of {graph.name!r}: {list(self.done)}")
        if done and (self.exits or self.placed or self.two_way or self.coding != "float32"):
            raise PlanError("a plan with exits, placed vertices, coded tensors or two ways cannot be gone on with half-way")
        if cut := [s for s in self.stacks if done.intersection(s.vertices)]:
            raise PlanError(f"stack ending in {graph[cut[0].output].name!r}: a vertex of it is done")
        return done

    def _check_placed(self, graph: LayerGraph) -> None:
        """Other devices compute from their own view of the input, and send to higher tiers only."""
        placed = dict(self.placed)
        for v in placed:
            if not INPUT < v < len(graph) or self.tiers[v] != "device":
                raise PlanError(f"vertex {v} cannot be placed on another device: it is not on the device tier")
        for producer, consumer in graph.edges if placed else ():
            if producer != INPUT and self.tiers[consumer] == "device" and placed.get(producer) != placed.get(consumer):
                raise PlanError(
                    f"{graph[producer].name!r} and {graph[consumer].name!r} are on different devices; devices do not send to"
                    " each other"
                )

    def _check_exits(self, graph: LayerGraph) -> None:
        placed = dict(self.placed)
        ranks = []
        for exit_ in self.exits:
            v = exit_.vertex
            if v not in graph.outputs or v in placed or exit_.metric not in METRICS:
                raise PlanError(f"vertex {v} is no output of {graph.name!r}, of a leading host, to exit from by {exit_.metric!r}")
            if (exit_.threshold is None) != (exit_ is self.exits[-1]):
                raise PlanError("the last exit of a plan, and no other, answers in any case (threshold null)")
            ranks.append(RANK[self.tiers[v]])
        stage = stages(graph, self.exits)
        if [stage[e.vertex] for e in self.exits] != list(range(len(self.exits))) or ranks != sorted(ranks):
            raise PlanError("exits must be given in the order in which the data reaches them, and not descend in tier")
        for stack in self.stacks:
            if len({stage[v] for v in stack.vertices}) > 1:
                raise PlanError(f"stack ending in {graph[stack.output].name!r}: an exit branches off in the middle")

    def _check_stack(self, graph: LayerGraph, stack: Stack, taken: set[int]) -> None:
        label = f"stack ending in {graph[stack.output].name!r}"
        if list(stack.vertices) != sorted(set(stack.vertices)) or taken.intersection(stack.vertices):
            raise PlanError(f"{label}: vertices must be ascending and in one stack only")
        if any(self.tiers[v] != "edge" or graph[v].spatial is None for v in stack.vertices):
            raise PlanError(f"{label}: every vertex must be spatial and on the edge tier")
        if not graph.is_convex(stack.vertices) or graph.boundary(stack.vertices)[1] != (stack.output,):
            raise PlanError(f"{label}: must be convex with one output vertex, the last")
        if len(stack.tiles) != stack.grid[0] * stack.grid[1]:
            raise PlanError(f"{label}: {len(stack.tiles)} tiles for a grid of {stack.grid[0]}x{stack.grid[1]}")
        height, width = graph[stack.output].rows, graph[stack.output].columns
        covered = 0
        for tile in stack.tiles:
            if not tile.empty:
                if tile.rows[0] < 0 or tile.columns[0] < 0 or tile.rows[1] > height or tile.columns[1] > width:
                    raise PlanError(f"{label}: tile {tile.rows}x{tile.columns} leaves the {height}x{width} map")
                covered += (tile.rows[1] - tile.rows[0]) * (tile.columns[1] - tile.columns[0])
        if covered != height * width or _overlap(stack.tiles):
            raise PlanError(f"{label}: the tiles must cover the {height}x{width} map exactly once")

    def _check_chain(self, graph: LayerGraph, chain: tuple[int, ...]) -> None:
        """A group of stacks that hand over among themselves must be sound as if it were one stack."""
        stacks = [self.stacks[i] for i in chain]
        label = f"stacks up to {graph[stacks[-1].output].name!r}"
        if stacks[-1].handover != "leader":
            raise PlanError(f"{label}: the last stack must hand its map over to the leader")
        if len(stacks) == 1:
            return
        vertices = sorted(v for stack in stacks for v in stack.vertices)
        if not graph.is_convex(vertices) or graph.boundary(vertices)[1] != (stacks[-1].output,):
            raise PlanError(f"{label}: stacks that hand over to one another must be convex together, with one output")
        seen: set[int] = set()
        for stack in stacks:
            if any(u in vertices and u not in seen for u in graph.boundary(stack.vertices)[0]):
                raise PlanError(f"{label}: a stack reads a map of a later one")
            seen.add(stack.output)
            hosts = [tile.host for tile in stack.tiles if not tile.empty]
            if stack.pooled or len(hosts) != len(set(hosts)):
                raise PlanError(f"{label}: stacks that hand over to one another have one fixed tile for each host")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        raw = asdict(self)
        if not self.done:
            del raw["done"]
        return raw

    def to_json(self) -> str:
        """JSON text that `from_json` reads back to an equal plan."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Plan:
        """Read what `to_dict` wrote. Raises PlanError for anything else."""
        try:
            stacks = tuple(
                Stack(
                    tuple(s["vertices"]),
                    (s["grid"][0], s["grid"][1]),
                    tuple(Tile(t["host"], (t["rows"][0], t["rows"][1]), (t["columns"][0], t["columns"][1])) for t in s["tiles"]),
                    bool(s.get("stealing", False)),
                    bool(s.get("reuse", False)),
                    s.get("handover", "leader"),
                )
                for s in raw["stacks"]
            )
            if any(stack.handover not in get_args(Handover) for stack in stacks):
                raise PlanError(f"a stack is handed over to {', '.join(get_args(Handover))}")
            tiers = tuple(raw["tiers"])
            if any(tier not in RANK for tier in (*tiers, *raw["hosts"])):
                raise PlanError(f"tiers are {', '.join(TIERS)}")
            return cls(
                planner=raw["planner"],
                model=raw["model"],
                tiers=tiers,
                hosts=dict(raw["hosts"]),
                stacks=stacks,
                epoch=int(raw["epoch"]),
                notes=dict(raw.get("notes", {})),
                two_way=bool(raw.get("two_way", False)),
                exits=tuple(_exit(e) for e in raw.get("exits", ())),
                coding=raw.get("coding", "float32"),
                coded_bytes=tuple((int(v), int(n)) for v, n in raw.get("coded_bytes", ())),
                placed=tuple((int(v), str(host)) for v, host in raw.get("placed", ())),
                patience_s=_seconds(raw.get("patience_s")),
                fallback_s=_seconds(raw.get("fallback_s")),
                done=tuple(int(v) for v in raw.get("done", ())),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise PlanError(f"not a plan: {error!r}") from error

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote. Raises PlanError for anything else."""
        try:
            return cls.from_dict(json.loads(text))
        except ValueError as error:
            raise PlanError(f"not a plan in JSON: {error}") from error


def _exit(raw: dict[str, Any]) -> Exit:
    threshold = raw["threshold"]
    return Exit(
        int(raw["vertex"]), raw["metric"], None if threshold is None else float(threshold), float(raw["rate"]), bool(raw["local"])
    )


def _seconds(raw: Any) -> float | None:
    return None if raw is None else float(raw)


def _overlap(tiles: tuple[Tile, ...]) -> bool:
    real = [t for t in tiles if not t.empty]
    return any(
        a.rows[0] < b.rows[1] and b.rows[0] < a.rows[1] and a.columns[0] < b.columns[1] and b.columns[0] < a.columns[1]
        for i, a in enumerate(real)
        for b in real[i + 1 :]
    )
