"""What an orchestrator does for a request whose host is lost, in its simplest form: ask what is held, plan the rest, go on.

And what the tests of that share: agents in virtual time with sizes only, plans to lose hosts under, what is left in the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_rig import Rig, chain, rig, three_way, tiled, timed
from tile_rig import fetched, handed_over

from d3node.channel import Message
from d3node.clock import VirtualLoop, run
from d3node.graph import LayerGraph
from d3node.plan import RANK, TIERS, Plan
from d3node.program import Route, lower

GRAPH = chain(7)
NAMES = ("d1", "e1", "e2", "e3", "c1")

OLD = {
    "tiles": tiled(GRAPH, (2, 3), ("e1", "e2", "e3"), device=2),
    "neighbours": handed_over(GRAPH, (2, 3), {"e1": 1.0, "e2": 1.0, "e3": 1.0}, "neighbours"),
    "relay": handed_over(GRAPH, (2, 3), {"e1": 1.0, "e2": 1.0, "e3": 1.0}, "relay"),
    "fetched": fetched(GRAPH, (2, 3), ("e1", "e2", "e3"), (4, 3), stealing=True, reuse=True),
    "parts": three_way(GRAPH),
}


def rest_of(graph: LayerGraph, plan: Plan, held: Mapping[str, Collection[int]]) -> Plan:
    """What a plan has left to do where its leading hosts hold tensors already. Held tensors are taken from the highest tier; no
    vertex comes to lie below what it reads; a stack (or chain of them) of which anything is done is computed by its leader."""
    ranks = [RANK[tier] for tier in plan.tiers]
    where = {v: RANK[tier] for tier in TIERS for v in held.get(plan.hosts[tier], ())}
    needed: set[int] = set()
    waiting = list(graph.outputs)
    while waiting:
        v = waiting.pop()
        if v not in needed:
            needed.add(v)
            waiting.extend(graph[v].inputs if v not in where else ())
    done = tuple(v for v in range(len(graph)) if v in where or v not in needed)
    for v in range(len(graph)):
        if v in done:
            ranks[v] = where.get(v, 0)
        elif v:
            ranks[v] = max(ranks[v], *(ranks[u] for u in graph[v].inputs))
    chains = [[plan.stacks[i] for i in chain] for chain in plan.chains()]
    whole = [c for c in chains if not any(v in done or ranks[v] != RANK["edge"] for stack in c for v in stack.vertices)]
    return replace(plan, tiers=tuple(TIERS[rank] for rank in ranks), done=done, stacks=tuple(s for c in whole for s in c))


async def ask_held(agents: Rig, plan: Plan, request: Any, hosts: Sequence[str]) -> dict[str, list[int]]:
    """Which tensors the hosts hold of a request that ran under a plan."""
    found = {}
    for host in hosts:
        reply = await agents.remotes[host].ask("held", request=request, epoch=plan.epoch)
        assert reply.kind == "ok", reply
        found[host] = reply.fields["vertices"]
    return found


async def go_on(
    agents: Rig,
    graph: LayerGraph,
    old: Plan,
    new: Plan,
    request: Any,
    *,
    seconds: float = 1.0,
    deadline_s: float = 100.0,
    seed: int = 0,
    restart: bool = False,
    route: Route = "relay",
    also: Sequence[str] = (),
    without: Collection[str] = (),
) -> tuple[Plan, list[Message]]:
    """Let a request go on under what is left of a new plan, on living hosts. `also`: other hosts that end their part in the old
    one; `without`: hosts that are not asked. Returns that plan and the answers to `resume`, the device's first."""
    leads = [new.hosts[tier] for tier in TIERS if new.hosts[tier] in agents.tasks.keys() - set(without)]
    plan = new if restart else rest_of(graph, new, await ask_held(agents, old, request, leads))
    plan.check(graph)
    programs = lower(graph, plan, route)
    tiles = {tile.host for stack in plan.stacks for tile in stack.tiles if not tile.empty}
    for host in sorted({program.host for program in programs.values()} | tiles):
        fields = {**timed(graph, plan, seconds), "route": route}
        fields["steps_s"] = {tier: [seconds] * len(program.steps) for tier, program in programs.items()}
        fields["vertices_s"] = [{h: [[0.0, seconds]] * len(s.vertices) for h in tiles} if s.pooled else None for s in plan.stacks]
        reply = await agents.remotes[host].ask("install", **fields)
        assert reply.kind == "ok", reply
    answers = []
    for program in sorted(programs.values(), key=lambda p: RANK[p.tier]):
        if program.tier == "device" or program.provides:
            what = {"was": old.epoch, "epoch": plan.epoch, "provide": list(program.provides), "input": seed}
            ask = agents.remotes[program.host].ask("resume", request=request, deadline_s=deadline_s, **what)
            answers.append(await ask)
            if answers[0].kind == "refused":  # the device has ended the request by now
                return plan, answers
    for host in sorted(set(also) - {program.host for program in programs.values() if program.provides} - {plan.hosts["device"]}):
        what = {"was": old.epoch, "epoch": plan.epoch, "provide": [], "input": seed}
        answers.append(await agents.remotes[host].ask("resume", request=request, deadline_s=deadline_s, **what))
    return plan, answers


def simulate(
    test: Callable[[Rig], Awaitable[None]], delay_s: float = 0.01, names: tuple[str, ...] = NAMES, **config: Any
) -> None:
    async def main() -> None:
        graphs = {GRAPH.name: GRAPH}
        async with rig(None, graphs, names, delay_s, inline_compute=True, tensors="sizes", **config) as agents:
            await agents.configure(recovery=True)
            await test(agents)

    run(VirtualLoop(), main())


async def install(agents: Rig, plan: Plan, seconds: float = 1.0) -> None:
    fields = timed(GRAPH, plan, seconds)
    fields["vertices_s"] = [
        {t.host: [[0.0, seconds]] * len(s.vertices) for t in s.tiles} if s.pooled else None for s in plan.stacks
    ]
    for remote in agents.remotes.values():
        reply = await remote.ask("install", **fields)
        assert reply.kind == "ok", reply


async def submit(agents: Rig, *requests: Any, epoch: int = 1, deadline_s: float = 100.0) -> None:
    for request in requests:
        await agents.remotes["d1"].tell("submit", request=request, epoch=epoch, input=0, deadline_s=deadline_s)


def ends(agents: Rig) -> list[Message]:
    return [e for e in agents.remotes["d1"].events if e.kind in ("done", "failed")]


def computed(agents: Rig, request: Any, host: str) -> Counter[int]:
    """How often a host has computed each vertex of a request, as it reports."""
    reports = [e for e in agents.remotes[host].events if e.kind == "report" and e.fields["request"] == request]
    return Counter(v for e in reports for r in e.fields["records"] if r["what"] == "compute" for v in r["vertices"])


async def nothing_is_left(agents: Rig, *ended: Any) -> None:
    """Once the orchestrator has said which requests are over, no living host has anything of them, and each reported once."""
    for name in agents.tasks:
        remote = agents.remotes[name]
        assert (await remote.ask("ping", over=list(ended))).kind == "ok"
        figures = (await remote.ask("stats")).fields
        assert [figures[key] for key in ("active", "queued", "parked", "kept", "kept_bytes")] == [0] * 5, (name, figures)
        seen = Counter((e.fields["request"], e.fields["epoch"]) for e in remote.events if e.kind == "report")
        assert set(seen.values()) <= {1}, name


def elsewhere(victim: str, epoch: int = 2) -> Plan:
    """A plan without a host: the other edge hosts share the tiles, or everybody up to the edge computes the rest."""
    plan = tiled(GRAPH, (2, 3), [host for host in ("e1", "e2", "e3") if host != victim], epoch, device=2)
    if victim == "e1":
        plan = replace(plan, hosts={**plan.hosts, "edge": "e2"})
    if victim == "c1":
        plan = replace(plan, tiers=tuple("edge" if tier == "cloud" else tier for tier in plan.tiers))
    return plan
