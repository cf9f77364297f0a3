"""What each leading host does for a plan: the steps it computes, the tensors it waits for and those it sends on.

A pure function of graph and plan, shared by the agents (who carry it out), the orchestrator (who prices its steps) and
the planners (who predict its critical path), so that all three speak of the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from d3node.graph import INPUT, LayerGraph
from d3node.plan import RANK, TIERS, Plan, Tier

Route = Literal["relay", "direct"]
"""How tensors get from device to cloud: stored and forwarded by the edge leader, or in one connection of their own."""


@dataclass(frozen=True, slots=True)
class Step:
    """Vertices that run together without interruption on one host, or (`stack` is not None) in tiles on several.

    `inputs`: tensors from outside the step; `outputs`: tensors that somebody outside the step needs. Ascending.
    `stack` is the index into `plan.stacks`, `stacks` all of them where several hand over to one another without the leader.
    """

    vertices: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stack: int | None = None
    stacks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Send:
    """One tensor to one host, as soon as it exists (computed here, or received for relaying)."""

    vertex: int
    host: str


@dataclass(frozen=True)
class Program:
    """Everything one tier's leading host does for a request.

    `receives`: tensors that arrive from other tiers; `steps` run in order, each when its inputs are there;
    `sends`: tensors to other tiers; `answers`: output vertices computed here, to be returned to the device.
    """

    host: str
    tier: Tier
    receives: tuple[int, ...]
    steps: tuple[Step, ...]
    sends: tuple[Send, ...]
    answers: tuple[int, ...]


def lower(graph: LayerGraph, plan: Plan, route: Route = "relay") -> dict[Tier, Program]:
    """Programs of the tiers that take part in a plan. The plan must be legal (`Plan.check`).

    A tensor crosses each tier boundary at most once with route "relay" (papers: the min-cut model of three tiers), and once per
    destination tier with route "direct". The device always has a program (it holds the input and gets the answer). Only in a plan
    that is `two_way` does the device receive tensors.
    """
    needed: dict[Tier, set[int]] = {tier: set() for tier in TIERS}
    for producer, consumer in graph.edges:
        if plan.tiers[producer] != plan.tiers[consumer]:
            needed[plan.tiers[consumer]].add(producer)
    relayed = {v for v in needed["cloud"] if plan.tiers[v] == "device"} if route == "relay" else set()
    arrivals: dict[Tier, set[int]] = {"device": needed["device"], "edge": needed["edge"] | relayed, "cloud": needed["cloud"]}

    programs: dict[Tier, Program] = {}
    for tier in TIERS:
        part = tuple(v for v in plan.part(tier) if v != INPUT)
        if not part and not arrivals[tier] and tier != "device":
            continue
        available = {INPUT, *part} if tier == "device" else {*part, *arrivals[tier]}
        sends = []
        for higher in TIERS[RANK[tier] + 1 :]:
            for v in sorted(arrivals[higher] & available):
                forwards = route == "relay" and tier == "device" and higher == "cloud"
                foreign = plan.tiers[v] != tier and not (tier == "edge" and v in relayed)
                if not forwards and not foreign:
                    sends.append(Send(v, plan.hosts[higher]))
        if tier != "device":  # what flows back (two-way plans only) goes straight to the device, as answers do
            sends += [Send(v, plan.hosts["device"]) for v in sorted(arrivals["device"]) if plan.tiers[v] == tier]
        programs[tier] = Program(
            host=plan.hosts[tier],
            tier=tier,
            receives=tuple(sorted(arrivals[tier])),
            steps=_steps(graph, plan, part),
            sends=tuple(sends),
            answers=tuple(v for v in graph.outputs if plan.tiers[v] == tier),
        )
    return programs


def _steps(graph: LayerGraph, plan: Plan, part: tuple[int, ...]) -> tuple[Step, ...]:
    """Cut a tier's vertices into steps: a stack (or a chain of them) is a step; any other step ends where a tensor appears that
    leaves the tier."""
    chain_of = {v: chain for chain in plan.chains() for i in chain for v in plan.stacks[i].vertices}
    leaves = {v for v in part if v in graph.outputs or any(plan.tiers[s] != plan.tiers[v] for s in graph.successors[v])}
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
        if v in waits:
            close()
        run.append(v)
        if v in leaves:
            close()
    close()
    return tuple(
        Step(vertices, *graph.boundary(vertices), stack=chain[0] if chain else None, stacks=chain) for vertices, chain in steps
    )
