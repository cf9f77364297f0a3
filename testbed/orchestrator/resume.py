"""The plan on which a request goes on that another plan has begun: from the last tensors that are still held.

After CESSNA (SoCC'20), which resumes a client of an edge at the last boundary that was logged; here a request has no other state
than its tensors. Pure functions; asking hosts what they hold, and telling them to go on, is `recovery.py`'s business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from d3node.graph import INPUT, LayerGraph
from d3node.plan import RANK, TIERS, Plan, Tier


def resumable(plan: Plan) -> bool:
    """Whether requests of a plan can be gone on with half-way; others begin again from their input."""
    return plan.lossless and not plan.placed and not plan.two_way


def resumed(graph: LayerGraph, plan: Plan, held: Mapping[Tier, Collection[int]]) -> Plan:
    """A plan like `plan` in which what its leading hosts hold is `done`, and so is what nobody needs then.

    A vertex that is held by several tiers is taken from the highest one that may still feed all its consumers. The others keep
    their tier, unless an input is held above it. The plan itself where nothing would be saved.
    """
    if not resumable(plan) or not any(held.values()):
        return plan
    holders = {
        v: [tier for tier in TIERS if v in held.get(tier, ()) or (tier == "device" and v == INPUT)] for v in range(len(graph))
    }
    done = {v for v, tiers in holders.items() if tiers}
    needed = set(graph.outputs)
    for v in reversed(range(len(graph))):
        if v in needed and v not in done:
            needed.update(graph[v].inputs)
    computed = needed - done
    if computed == set(range(1, len(graph))) and not any(tier != "device" for tier in holders[INPUT]):
        return plan
    ranks = [RANK[tier] for tier in plan.tiers]
    for v in range(len(graph)):
        if v in computed:
            ranks[v] = max([ranks[v], *(ranks[u] for u in graph[v].inputs)])
        elif v in needed:
            asking = [ranks[c] for c in graph.successors[v] if c in computed]
            able = [RANK[tier] for tier in holders[v]]
            ranks[v] = max([rank for rank in able if rank <= min(asking, default=max(able))], default=min(able))
        else:
            ranks[v] = 0
    idle = sorted(set(range(len(graph))) - computed - ({INPUT} if ranks[INPUT] == 0 else set()))
    kept: set[int] = set()
    for chain in plan.chains():
        vertices = [v for i in chain for v in plan.stacks[i].vertices]
        if all(v in computed and TIERS[ranks[v]] == "edge" for v in vertices):
            kept.update(chain)
    return replace(
        plan,
        tiers=tuple(TIERS[rank] for rank in ranks),
        stacks=tuple(stack for i, stack in enumerate(plan.stacks) if i in kept),
        done=tuple(idle),
    )
