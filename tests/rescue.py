"""What an orchestrator does for a request whose host is lost, in its simplest form: ask what is held, plan the rest, go on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_rig import Rig, timed

from d3node.channel import Message
from d3node.graph import LayerGraph
from d3node.plan import RANK, TIERS, Plan
from d3node.program import Route, lower


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
