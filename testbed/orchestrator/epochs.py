"""Plan epochs: installed on every host concerned before use, kept while requests of theirs are in flight, then retired.

Which plan to install is `planning.py`'s decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from d3node.graph import LayerGraph
from d3node.plan import RANK, Plan, Tier
from d3node.program import Program, Route, lower_all
from testbed.costs.table import Costs
from testbed.errors import AgentError
from testbed.orchestrator.control import Fleet
from testbed.orchestrator.prices import price


@dataclass
class Epoch:
    """An installed plan. `hosts` take part in its requests and report on them; `live` requests are in flight. `contributors` are
    other devices that are told of every request; `silent[k]` hosts never hear of one that ends at exit k."""

    plan: Plan
    programs: dict[Tier, Program]
    hosts: tuple[str, ...]
    reporting: frozenset[str]
    contributors: tuple[str, ...] = ()
    silent: tuple[frozenset[str], ...] = ()
    live: int = 0
    superseded: bool = False

    @property
    def number(self) -> int:
        """The epoch's number."""
        return self.plan.epoch

    @property
    def tiled(self) -> bool:
        """Whether the plan computes anything in tiles."""
        return bool(self.plan.stacks)


@dataclass
class Epochs:
    """All epochs of a run: numbers are never used twice; `last` is the one that was used last. `note` is told of every
    plan before any host is."""

    fleet: Fleet
    route: Route
    seed: int = 0
    last: int = 0
    note: Callable[[Plan, Route], None] = lambda _plan, _route: None
    installed: dict[int, Epoch] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def install(self, graph: LayerGraph, plan: Plan, truth: Costs, route: Route | None = None) -> Epoch:
        """Give a plan a number and install it on all hosts concerned; by another route than the run's, if one is given. Raises
        PlanError, AgentError."""
        route = route or self.route
        self.last += 1
        plan = plan.with_epoch(self.last)
        plan.check(graph)
        everyone = lower_all(graph, plan, route)
        epoch = _lowered(plan, everyone)
        hosts = epoch.hosts
        prices = price(graph, plan, epoch.programs, truth)
        others = [program for program in everyone if program.host in epoch.contributors]
        others_s = {p.host: [truth.run_s(step.vertices, p.tier, p.host) for step in p.steps] for p in others}
        self.note(plan, route)
        # `notes` are the planner's own and may hold anything; agents have no use for them.
        fields: dict[str, Any] = {
            "plan": {**plan.to_dict(), "notes": {}},
            "steps_s": {**prices.steps_s, **others_s},
            "tiles_s": prices.tiles_s,
        }
        if route != self.route:
            fields["route"] = route
        if plan.exits:
            fields["seed"] = self.seed
        if any(stack.pooled for stack in plan.stacks):
            fields["vertices_s"] = prices.vertices_s
        try:
            await self.fleet.call_all(hosts, "install", dict.fromkeys(hosts, fields))
        except AgentError:
            await self._tell(hosts, plan.epoch)
            raise
        self.installed[epoch.number] = epoch
        return epoch

    def take_over(self, graph: LayerGraph, plan: Plan, route: Route) -> Epoch:
        """An epoch that another orchestrator has installed, for requests of it that are under way; no other will use it."""
        epoch = self.installed[plan.epoch] = _lowered(plan, lower_all(graph, plan, route))
        epoch.superseded = True
        return epoch

    async def retire(self, graph: LayerGraph, plan: Plan, route: Route) -> None:
        """Let hosts forget an epoch that another orchestrator has installed and nobody needs."""
        await self._tell(_lowered(plan, lower_all(graph, plan, route)).hosts, plan.epoch)

    def enter(self, epoch: Epoch) -> None:
        """A request starts on an epoch."""
        epoch.live += 1

    def leave(self, epoch: Epoch) -> None:
        """A request of an epoch is over and reported."""
        epoch.live -= 1
        self._retire_if_over(epoch)

    def supersede(self, epoch: Epoch) -> None:
        """No new request will use this epoch; it is retired with its last one."""
        epoch.superseded = True
        self._retire_if_over(epoch)

    async def settle(self) -> None:
        """Wait until every retirement under way has been sent."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _retire_if_over(self, epoch: Epoch) -> None:
        if epoch.superseded and epoch.live == 0 and self.installed.pop(epoch.number, None) is not None:
            task = asyncio.create_task(self._retire(epoch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _retire(self, epoch: Epoch) -> None:
        await self._tell(epoch.hosts, epoch.number)

    async def _tell(self, hosts: Iterable[str], number: int) -> None:
        """An epoch is not needed any more."""
        if not self.fleet.present.is_set():
            await self.fleet.present.wait()
        for host in hosts:
            try:
                await self.fleet.clients[host].send("retire", {"epoch": number})
            except AgentError:  # it is gone, and the epoch with it
                continue


def _lowered(plan: Plan, everyone: Sequence[Program]) -> Epoch:
    """The epoch of a plan, from what each of its hosts has to do."""
    working = [program.host for program in everyone]
    working += [tile.host for stack in plan.stacks for tile in stack.tiles if not tile.empty]
    named = [*working, *(tile.host for stack in plan.stacks for tile in stack.tiles)]
    ends = [RANK[plan.tiers[e.vertex]] for e in plan.exits]
    return Epoch(
        plan=plan,
        programs={program.tier: program for program in everyone if program.host == plan.hosts[program.tier]},
        hosts=tuple(dict.fromkeys(named)),
        reporting=frozenset(working),
        contributors=tuple(program.host for program in everyone if program.host not in plan.hosts.values()),
        silent=tuple(frozenset(p.host for p in everyone if RANK[p.tier] > rank) for rank in ends),
    )
