"""A plan, made ready for one host: which steps it runs, what it waits for, what it sends where, which tiles it computes.

Compiled once per epoch so that a request costs few look-ups. The steps themselves come from `d3node.program.lower`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from d3node.channel import Payload
from d3node.errors import PlanError
from d3node.graph import INPUT, LayerGraph
from d3node.handover import Chain, chain_of
from d3node.intervals import Box
from d3node.numerics import Encoding, Numerics, RunnableModel, Sizes
from d3node.plan import RANK, Plan, Tier
from d3node.pool import Geometry
from d3node.program import Program, Route, Step, lower_all
from d3node.stealing import PoolWork, rates_of
from d3node.supersteps import ChainWork, work_of


@dataclass(frozen=True, slots=True)
class TileWork:
    """One non-empty tile: its place in the plan, the host that computes it, its modelled time, the shapes it reads and makes."""

    stack: int
    tile: int
    host: str
    box: Box
    seconds: float | None
    reads: tuple[int, ...]
    pieces: tuple[Payload, ...]
    output: Payload


@dataclass(frozen=True, slots=True)
class StepWork:
    """One step of this host. `freed`: tensors that no later step here reads. `tiles` is empty for a plain step, and has those of
    the last stack for a chain of stacks; `helpers`: other hosts that compute tiles of the step. `chain`: this host's part of a
    chain, and everybody's tiles; `pool`: a stack whose tiles are fetched."""

    index: int
    vertices: list[int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    seconds: float | None
    freed: tuple[int, ...]
    stack: int | None
    tiles: tuple[TileWork, ...]
    helpers: tuple[str, ...] = ()
    chain: tuple[ChainWork, Chain] | None = None
    pool: PoolWork | None = None
    after: int = 0


@dataclass(slots=True)
class Epoch:
    """A plan as one host carries it out.

    `tier` is the tier that this host leads, if any; `wanted`: vertices whose tensors a step here reads; `tiles`: the tiles that
    this host computes for another leader, by (stack, tile), `chains` (by each of their stacks) and `pools` those that are not
    simply sent and returned; `hosts`: everybody who takes part; `contacts`: whom it sends to.

    Of exits (`d3node.program.Program`): `exits` decided here, by vertex; `passed`; `tells` by exit; `after` by (vertex, host)
    for sends that wait for exits, `due` by vertex for arrivals that do. `contributors`: other devices of the plan; `seed`
    decides exits where only sizes travel; `blanks`: what blank views make of a vertex, once computed.

    `provides`: tensors that this host holds already when a request under this plan begins (`Plan.done`). `doors`: hosts of
    higher tiers on which this one opens requests (`d3node.windows`); `below`: devices, which are never waited for room with.
    """

    number: int
    plan: Plan
    graph: LayerGraph
    sizes: Sizes
    numerics: Numerics | None
    device: str
    tier: Tier | None
    steps: tuple[StepWork, ...]
    receives: frozenset[int]
    wanted: frozenset[int]
    sends: dict[int, tuple[str, ...]]
    answers: frozenset[int]
    tiles: dict[tuple[int, int], TileWork]
    hosts: frozenset[str]
    contacts: tuple[str, ...]
    chains: dict[int, ChainWork] = field(default_factory=dict)
    pools: dict[int, PoolWork] = field(default_factory=dict)
    active: int = 0
    retired: bool = False
    images: dict[int, Payload] = field(default_factory=dict)
    exits: dict[int, int] = field(default_factory=dict)
    passed: int = 0
    tells: dict[int, tuple[str, ...]] = field(default_factory=dict)
    after: dict[tuple[int, str], int] = field(default_factory=dict)
    due: dict[int, int] = field(default_factory=dict)
    contributors: frozenset[str] = frozenset()
    seed: int = 0
    provides: frozenset[int] = frozenset()
    doors: tuple[str, ...] = ()
    below: frozenset[str] = frozenset()
    blanks: dict[int, Payload] = field(default_factory=dict)

    @property
    def gated(self) -> bool:
        """Whether requests need a `d3node.gate.Gate`."""
        plan = self.plan
        return bool(plan.exits) or plan.coding != "float32" or plan.patience_s is not None

    @property
    def leaving(self) -> Collection[int]:
        """Tensors that are sent on from here, or answer from afar; but an input can be made of its seed again."""
        return self.sends.keys() - {INPUT} if self.tier == "device" else self.sends.keys() | self.answers

    @property
    def resumable(self) -> bool:
        """Whether a request can go on from its tensors under another plan: they are of one input, and as the model has them."""
        return not (self.gated or self.plan.placed or self.plan.two_way)


def compile_epoch(
    plan: Plan,
    model: RunnableModel | LayerGraph,
    host: str,
    *,
    route: Route,
    encoding: Encoding,
    steps_s: Mapping[str, Sequence[float]] | None,
    tiles_s: Sequence[Sequence[float]] | None,
    vertices_s: Sequence[Mapping[str, Any] | None] | None = None,
    threads: int = 1,
    seed: int = 0,
) -> Epoch:
    """Work out a host's share of a plan. Times None: measured. Raises PlanError for an illegal plan or unfitting times."""
    numerics = None if isinstance(model, LayerGraph) else Numerics(model, encoding, threads)
    graph = model if isinstance(model, LayerGraph) else model.graph
    plan.check(graph)
    programs = lower_all(graph, plan, route)
    led = [program for program in programs if program.host == host]
    if len(led) > 1:
        raise PlanError(f"host {host!r} leads {len(led)} tiers of the plan; a host can lead one")
    program = led[0] if led else None
    sizes = Sizes(graph, encoding)
    leader = plan.hosts["edge"]

    def tile_work(stack: int, tile: int) -> TileWork:
        vertices, spec = plan.stacks[stack].vertices, plan.stacks[stack].tiles[tile]
        box = (spec.rows, spec.columns)
        reads = graph.boundary(vertices)[0]
        seconds = None if tiles_s is None else _seconds(tiles_s, stack, tile)
        return TileWork(stack, tile, spec.host, box, seconds, reads, sizes.read(vertices, box), sizes.region(vertices[-1], box))

    def real_tiles(stack: int) -> list[int]:
        return [t for t, tile in enumerate(plan.stacks[stack].tiles) if not tile.empty]

    def tile_seconds(place: tuple[int, int]) -> float | None:
        return None if tiles_s is None else _seconds(tiles_s, *place)

    def pool_work(stack: int) -> PoolWork:
        spec = plan.stacks[stack]
        rates = None if tiles_s is None else rates_of(graph, vertices_s, stack, host, spec.vertices)
        return PoolWork(stack, Geometry(graph, spec), spec.vertices, rates)

    links = {chain[0]: chain_of(graph, plan, chain) for chain in plan.chains() if len(chain) > 1}
    by_stack = {i: plan.stacks[i].vertices for i in range(len(plan.stacks))}

    def of_stack(step: Step) -> dict[str, Any]:
        """What the leader needs for a step of tiles."""
        if step.stack is None:
            return {"tiles": ()}
        found: dict[str, Any] = {"tiles": tuple(tile_work(step.stacks[-1], t) for t in real_tiles(step.stacks[-1]))}
        hosts = [plan.stacks[i].tiles[t].host for i in step.stacks for t in real_tiles(i)]
        found["helpers"] = tuple(sorted(set(hosts) - {host}))
        if step.stack in links:
            chain = links[step.stack]
            found["chain"] = work_of(chain, host, sizes, by_stack, tile_seconds), chain
        elif plan.stacks[step.stack].pooled:
            found["pool"] = pool_work(step.stack)
        return found

    steps: list[StepWork] = []
    if program is not None:
        times = None if steps_s is None else steps_s.get(program.tier if host == plan.hosts[program.tier] else host)
        if steps_s is not None and (times is None or len(times) != len(program.steps)):
            given = "none" if times is None else str(len(times))
            raise PlanError(f"the {program.tier} part has {len(program.steps)} steps, but {given} of their times were given")
        last = {v: i for i, step in enumerate(program.steps) for v in step.inputs}
        for i, step in enumerate(program.steps):
            if times is not None and not times[i] >= 0.0:
                raise PlanError(f"step {i} of the {program.tier} part cannot take {times[i]!r} s")
            steps.append(
                StepWork(
                    index=i,
                    vertices=list(step.vertices),
                    inputs=step.inputs,
                    outputs=step.outputs,
                    seconds=None if times is None else float(times[i]),
                    freed=tuple(v for v in step.inputs if last[v] == i),
                    stack=step.stack,
                    **of_stack(step),
                    after=step.after,
                )
            )
    hand_tiles = {
        (s, t): tile_work(s, t)
        for s, stack in enumerate(plan.stacks)
        for t in real_tiles(s)
        if stack.tiles[t].host == host and leader != host and not stack.pooled
    }
    chains: dict[int, ChainWork] = {}
    pools: dict[int, PoolWork] = {}
    neighbours: set[str] = set()
    if leader != host:
        for chain in links.values():
            work = work_of(chain, host, sizes, by_stack, tile_seconds)
            if work.steps:
                chains.update(dict.fromkeys(chain.stacks, work))
                straight = [h for h in chain.halos if plan.stacks[h.place[0]].handover == "neighbours"]
                neighbours |= {halo.target for halo in straight if halo.source == host}
        for s, stack in enumerate(plan.stacks):
            if stack.pooled and any(stack.tiles[t].host == host for t in real_tiles(s)):
                pools[s] = pool_work(s)
    sends: dict[int, list[str]] = {}
    for send in program.sends if program else ():
        sends.setdefault(send.vertex, []).append(send.host)
    device = plan.hosts["device"]
    tile_hosts = {tile.host for stack in plan.stacks for tile in stack.tiles if not tile.empty}
    contacts = {send.host for send in program.sends} if program else set()
    contacts |= {helper for step in steps for helper in step.helpers} | neighbours
    contacts |= {leader} if hand_tiles or pools else set()
    contacts |= {device} if program and (program.answers or program.exits) else set()
    contacts |= {told for _, told in program.tells} if program else set()
    return Epoch(
        number=plan.epoch,
        plan=plan,
        graph=graph,
        sizes=sizes,
        numerics=numerics,
        device=device,
        tier=program.tier if program else None,
        steps=tuple(steps),
        receives=frozenset(program.receives) if program else frozenset(),
        wanted=frozenset(v for step in steps for v in step.inputs),
        sends={v: tuple(hosts) for v, hosts in sends.items()},
        answers=frozenset(program.answers) if program else frozenset(),
        tiles=hand_tiles,
        hosts=frozenset({p.host for p in programs} | tile_hosts),
        contacts=tuple(sorted(contacts - {host})),
        chains=chains,
        pools=pools,
        exits={plan.exits[k].vertex: k for k in program.exits} if program else {},
        passed=program.passed if program else 0,
        tells={k: tuple(told for j, told in program.tells if j == k) for k in program.exits} if program else {},
        after={(send.vertex, send.host): send.after for send in program.sends} if program else {},
        due={send.vertex: send.after for p in programs for send in p.sends if send.host == host},
        contributors=frozenset(host for _, host in plan.placed) - {device},
        seed=seed,
        provides=frozenset(program.provides) if program else frozenset(),
        doors=_doors(plan, programs, program),
        below=frozenset({device, *(host for _, host in plan.placed)}),
    )


def _doors(plan: Plan, programs: Sequence[Program], mine: Program | None) -> tuple[str, ...]:
    """Hosts of higher tiers on which a request is opened from here: those that it sends to, and no host between them does.

    None where a request does not begin at its device alone: with views of other devices, or when it goes on from other hosts.
    """
    if mine is None or plan.placed or any(p.provides and p.host != plan.hosts["device"] for p in programs):
        return ()
    ranks = {program.host: RANK[program.tier] for program in programs}
    up = {p.host: {send.host for send in p.sends if ranks[send.host] > RANK[p.tier]} for p in programs}
    nearer = {host for p in programs if RANK[p.tier] > RANK[mine.tier] for host in up[p.host]}
    return tuple(sorted(up[mine.host] - nearer))


def _seconds(tiles_s: Sequence[Sequence[Any]], stack: int, tile: int) -> float:
    try:
        seconds = float(tiles_s[stack][tile])
    except (IndexError, TypeError, ValueError) as error:
        raise PlanError(f"no time was given for tile {tile} of stack {stack}") from error
    if not seconds >= 0.0:
        raise PlanError(f"tile {tile} of stack {stack} cannot take {seconds} s")
    return seconds
