"""What each leading host does for a plan: the steps it computes, the tensors it waits for and those it sends on.

A pure function of graph and plan, shared by the agents (who carry it out), the orchestrator (who prices its steps) and
the planners (who predict its critical path), so that all three speak of the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from d3node.exits import stages
from d3node.graph import INPUT, LayerGraph
from d3node.plan import RANK, TIERS, Plan, Tier

Route = Literal["relay", "direct"]
"""How tensors get from device to cloud: stored and forwarded by the edge leader, or in one connection of their own."""


@dataclass(frozen=True, slots=True)
class Step:
    """Vertices that run together without interruption on one host, or (`stack` is not None) in tiles on several.

    `inputs`: tensors from outside the step; `outputs`: tensors that somebody outside the step needs. Ascending.
    `stack` is the index into `plan.stacks`, `stacks` all of them where several hand over to one another without the leader.
    `after`: how many of the plan's exits must have let the request pass first.
    """

    vertices: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stack: int | None = None
    stacks: tuple[int, ...] = ()
    after: int = 0


@dataclass(frozen=True, slots=True)
class Send:
    """One tensor to one host, as soon as it exists (computed here, or received for relaying) and `after` of the plan's exits
    have let the request pass."""

    vertex: int
    host: str
    after: int = 0


@dataclass(frozen=True)
class Program:
    """Everything one tier's leading host does for a request.

    `receives`: tensors that arrive from other tiers; `steps` run in order, each when its inputs are there;
    `sends`: tensors to other tiers; `answers`: output vertices computed here, to be returned to the device.

    With exits: `exits` are those decided here (numbers in the plan); `passed` how many lie on lower tiers, so that whatever
    arrives has passed them; `tells`: (exit, host) for hosts of this or a lower tier that wait for what is decided here.

    `provides`: tensors of vertices that are done (`Plan.done`), held here, and needed here or elsewhere.
    """

    host: str
    tier: Tier
    receives: tuple[int, ...]
    steps: tuple[Step, ...]
    sends: tuple[Send, ...]
    answers: tuple[int, ...]
    exits: tuple[int, ...] = ()
    passed: int = 0
    tells: tuple[tuple[int, str], ...] = ()
    provides: tuple[int, ...] = ()


def lower(graph: LayerGraph, plan: Plan, route: Route = "relay") -> dict[Tier, Program]:
    """Programs of the hosts that lead a tier, of the tiers that take part in a plan. The plan must be legal (`Plan.check`).

    A tensor crosses each tier boundary at most once with route "relay" (papers: the min-cut model of three tiers), and once per
    destination tier with route "direct". The device always has a program (it holds the input and gets the answer).
    Only in a plan that is `two_way` does the device receive tensors. What other devices do (`Plan.placed`) is in `lower_all`.
    """
    return {p.tier: p for p in lower_all(graph, plan, route) if p.host == plan.hosts[p.tier]}


def lower_all(graph: LayerGraph, plan: Plan, route: Route = "relay") -> tuple[Program, ...]:
    """Programs of all hosts: those that lead a tier, from the device up, then other devices that contribute views."""
    stage = stages(graph, plan.exits)
    end = max(1, len(plan.exits))
    placed, done = dict(plan.placed), frozenset(plan.done)
    needed: dict[Tier, dict[int, int]] = {tier: {} for tier in TIERS}  # vertex -> first stage that needs it there
    for producer, consumer in graph.edges:
        if plan.tiers[producer] != plan.tiers[consumer] and stage[consumer] < end and consumer not in done:
            there = needed[plan.tiers[consumer]]
            there[producer] = min(stage[consumer], there.get(producer, end))
    arrivals = dict(needed)
    if route == "relay":
        relayed = {v: after for v, after in needed["cloud"].items() if plan.tiers[v] == "device"}
        arrivals["edge"] = {v: min(after, relayed.get(v, end)) for v, after in needed["edge"].items()} | {
            v: after for v, after in relayed.items() if v not in needed["edge"]
        }
    else:
        relayed = {}

    programs: list[Program] = []
    helpers = tuple(dict.fromkeys(placed.values()))
    for tier, host in [*((tier, plan.hosts[tier]) for tier in TIERS), *(("device", helper) for helper in helpers)]:
        here = [v for v in plan.part(tier) if placed.get(v, plan.hosts[tier]) == host and stage[v] < end]
        part = tuple(sorted((v for v in here if v != INPUT and v not in done), key=lambda v: (stage[v], v)))
        provides = tuple(v for v in here if v in done and _wanted(graph, v, done) and (v != INPUT or tier != "device"))
        if not part and not arrivals[tier] and not provides and tier != "device":
            continue
        available = {*here} if tier == "device" else {*here, *arrivals[tier]}
        sends = []
        for higher in TIERS[RANK[tier] + 1 :]:
            for v in sorted(arrivals[higher].keys() & available):
                forwards = route == "relay" and tier == "device" and higher == "cloud"
                foreign = plan.tiers[v] != tier and not (tier == "edge" and v in relayed)
                if not forwards and not foreign:
                    sends.append(Send(v, plan.hosts[higher], arrivals[higher][v]))
        if tier != "device":  # what flows back (two-way plans only) goes straight to the device, as answers do
            sends += [Send(v, plan.hosts["device"]) for v in sorted(arrivals["device"]) if plan.tiers[v] == tier]
        leads = host == plan.hosts[tier]
        programs.append(
            Program(
                host=host,
                tier=tier,
                receives=tuple(sorted(arrivals[tier])) if leads else (),
                steps=_steps(graph, plan, part, stage),
                sends=tuple(sends),
                answers=tuple(v for v in graph.outputs if plan.tiers[v] == tier) if leads and not plan.exits else (),
                exits=tuple(k for k, e in enumerate(plan.exits) if plan.tiers[e.vertex] == tier) if leads else (),
                passed=sum(RANK[plan.tiers[e.vertex]] < RANK[tier] for e in plan.exits),
                provides=provides,
            )
        )
    return tuple(replace(program, tells=_tells(program, programs)) for program in programs)


def _wanted(graph: LayerGraph, vertex: int, done: frozenset[int]) -> bool:
    """Whether the tensor of a vertex that is done is needed: as an answer, or to compute one that is not."""
    return vertex in graph.outputs or any(consumer not in done for consumer in graph.successors[vertex])


def _tells(program: Program, programs: Sequence[Program]) -> tuple[tuple[int, str], ...]:
    """Who waits for what a host decides: hosts that have something to do or to send only behind that exit."""
    return tuple(
        (k, other.host)
        for k in program.exits
        for other in programs
        if other.host != program.host
        and other.passed <= k
        and max([*(step.after for step in other.steps), *(send.after for send in other.sends)], default=0) > k
    )


def _steps(graph: LayerGraph, plan: Plan, part: tuple[int, ...], stage: tuple[int, ...]) -> tuple[Step, ...]:
    """Cut a tier's vertices into steps: a stack (or a chain of them) is a step; any other step ends where a tensor appears that
    leaves the tier."""
    chain_of = {v: chain for chain in plan.chains() for i in chain for v in plan.stacks[i].vertices}
    others = {v: [s for s in graph.successors[v] if s not in plan.done] for v in part} if plan.done else graph.successors
    leaves = {v for v in part if v in graph.outputs or any(plan.tiers[s] != plan.tiers[v] for s in others[v])}
    waits = {v for v in part if any(plan.tiers[p] != plan.tiers[v] for p in graph[v].inputs)}
    steps: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    run: list[int] = []

    def close() -> None:
        if run:
            steps.append((tuple(run), ()))
            run.clear()

    for v in part:
        chain = chain_of.get(v)
        if chain is not None:
            if v == plan.stacks[chain[-1]].output:
                close()
                steps.append((tuple(sorted(u for i in chain for u in plan.stacks[i].vertices)), chain))
            continue
        if v in waits or (run and stage[v] != stage[run[-1]]):
            close()
        run.append(v)
        if v in leaves:
            close()
    close()
    return tuple(
        Step(vertices, *graph.boundary(vertices), stack=chain[0] if chain else None, stacks=chain, after=stage[vertices[-1]])
        for vertices, chain in steps
    )
