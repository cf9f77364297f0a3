"""A thousand requests while hosts die, hang and come back at random: each ends exactly once, and nothing of any is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

import pytest
from agent_rig import Rig, chain, rig, three_way, tiled
from rescue import go_on

from d3node.agent import AgentConfig
from d3node.clock import VirtualLoop, run
from d3node.errors import ChannelError
from d3node.plan import Plan

GRAPH = chain(7)
EDGES = ("e1", "e2", "e3")
REQUESTS = 1000
STEP_S = 0.02
DEADLINE_S = 200.0


class Losses:
    """A very small orchestrator: it knows at once who is gone, lets requests go on, and uses a host again that came back."""

    def __init__(self, agents: Rig, seed: int) -> None:
        self.agents = agents
        self.random = Random(seed)
        self.gone: dict[str, str] = {}
        self.epochs = count(1)
        self.plan_of: dict[int, Plan] = {}
        self.went_on = 0

    def plan(self) -> Plan:
        """Tiles on the edge hosts that are there, the first of which leads; without a cloud the edge or the device does more."""
        left = [host for host in EDGES if host not in self.gone]
        epoch = next(self.epochs)
        plan = tiled(GRAPH, (2, 3), left, epoch, device=2) if left else three_way(GRAPH, epoch, 2, 2)
        if left:
            plan = replace(plan, hosts={**plan.hosts, "edge": left[0]})
        if "c1" in self.gone:
            there = "edge" if left else "device"
            plan = replace(plan, tiers=tuple(there if tier == "cloud" else tier for tier in plan.tiers))
        return plan

    async def install(self, plan: Plan) -> None:
        hosts = [host for host in self.agents.remotes if host not in self.gone]
        await self.agents.install(GRAPH, plan, STEP_S, hosts)

    def open(self) -> list[int]:
        ended = {e.fields["request"] for e in self.agents.remotes["d1"].events if e.kind in ("done", "failed")}
        return sorted(self.plan_of.keys() - ended)

    async def lose(self, host: str) -> None:
        self.gone[host] = self.random.choice(["dies", "hangs"])
        if self.gone[host] == "dies":
            await self.agents.kill(host)
            await self.agents.remotes.pop(host).close()
        else:
            await self.agents.remotes[host].tell("share", cpu_share=0.0)
        await asyncio.sleep(self.random.choice([0.0, 0.05, 0.2]))  # until it is noticed
        for request in self.open():
            old = self.plan_of[request]
            if host in old.hosts.values() or any(tile.host == host for stack in old.stacks for tile in stack.tiles):
                new = self.plan()
                there = [h for h in self.agents.remotes if h not in self.gone and h != "d1"]
                how: dict[str, Any] = {"route": "relay" if "edge" in new.tiers else "direct", "also": there, "without": self.gone}
                plan, answers = await go_on(self.agents, GRAPH, old, new, request, seconds=STEP_S, deadline_s=DEADLINE_S, **how)
                if answers[0].kind == "ok":
                    assert {a.kind for a in answers} == {"ok"}, answers
                    self.plan_of[request] = plan
                    self.went_on += 1
                else:
                    assert request not in self.open()

    async def come_back(self, host: str) -> None:
        how = self.gone.pop(host)
        if how == "dies":
            config = AgentConfig(name=host, tier="edge" if host in EDGES else "cloud", inline_compute=True, tensors="sizes")
            await self.agents.start(config, {GRAPH.name: GRAPH})
        else:
            await self.agents.remotes[host].tell("share", cpu_share=1.0)
            await asyncio.sleep(self.random.choice([0.0, 0.1]))  # it goes on with what it had, for nobody
        fields = {"peers": self.agents.addresses, "mode": "modelled", "tensors": "sizes", "recovery": True, "fresh": True}
        assert (await self.agents.remotes[host].ask("configure", **fields)).kind == "ok"

    async def disturb(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0.2, 2.0))
            back = [host for host in self.gone if self.random.random() < 0.5]
            for host in back:
                await self.come_back(host)
            there = [host for host in (*EDGES, "c1") if host not in self.gone]
            if there and len(self.gone) < 3:
                await self.lose(self.random.choice(there))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_thousand_requests_end_once_whoever_is_lost_and_leave_nothing_behind(seed: int) -> None:
    async def main() -> None:
        names = ("d1", *EDGES, "c1")
        async with rig(None, {GRAPH.name: GRAPH}, names, 0.001, inline_compute=True, tensors="sizes") as agents:
            await agents.configure(recovery=True)
            losses = Losses(agents, seed)
            disturbing = asyncio.create_task(losses.disturb())
            d1 = agents.remotes["d1"]
            known: dict[str, str] | None = None
            for request in range(REQUESTS):
                while known != losses.gone:
                    plan, known = losses.plan(), dict(losses.gone)
                    try:
                        await losses.install(plan)
                    except (ChannelError, KeyError, TimeoutError):
                        known = None  # somebody was lost just now
                losses.plan_of[request] = plan
                await d1.tell("submit", request=request, epoch=plan.epoch, input=0, deadline_s=DEADLINE_S)
                await asyncio.sleep(losses.random.expovariate(1 / (1.5 * STEP_S)))
            async with asyncio.timeout(DEADLINE_S):
                await d1.wait(REQUESTS)
            assert not disturbing.done(), disturbing.exception()
            disturbing.cancel()
            await asyncio.wait([disturbing])
            for host in list(losses.gone):
                await losses.come_back(host)
            await asyncio.sleep(30.0)
            ends = Counter((e.fields["request"], e.kind) for e in d1.events if e.kind in ("done", "failed"))
            assert ends == Counter((request, "done") for request in range(REQUESTS))
            assert losses.went_on > 50
            for name, remote in agents.remotes.items():
                assert (await remote.ask("ping", over=list(range(REQUESTS)))).kind == "ok"
                figures = (await remote.ask("stats")).fields
                assert [figures[key] for key in ("active", "parked", "kept", "kept_bytes")] == [0] * 4, (name, figures)
            await asyncio.sleep(700.0)  # every bound of time is over
            timers = [entry[2] for entry in loop._timers if not entry[2]._cancelled]
            assert timers == []
            last = next(losses.epochs)
            for _ in range(2):
                for epoch in range(1, last):
                    await d1.tell("retire", epoch=epoch)
                    await agents.remotes["e1"].tell("retire", epoch=epoch)
                await asyncio.sleep(121.0)
            assert (await d1.ask("stats")).fields["epochs"] == (await agents.remotes["e1"].ask("stats")).fields["epochs"] == []

    loop = VirtualLoop()
    run(loop, main())
