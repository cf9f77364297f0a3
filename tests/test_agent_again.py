"""An agent that is asked whether it is there, that begins anew, and that takes a plan's own route."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from agent_rig import Rig, three_way, tiled, timed
from test_agent_virtual import GRAPH, end, simulate, submit

NAMES = ("d1", "e1", "e2", "c1")


def test_an_agent_says_that_it_is_there_whatever_it_computes() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, three_way(GRAPH), 5.0)
        await submit(agents, 1)
        for remote in agents.remotes.values():
            reply = await remote.ask("ping")
            assert (reply.kind, list(reply.fields)) == ("ok", ["id"])

    simulate(test)


def test_a_host_that_begins_anew_forgets_requests_and_plans_without_a_word() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, tiled(GRAPH, (1, 2, 3), ("e1", "e2")), 5.0)
        for request in range(3):
            await submit(agents, request)
        await agents.install(GRAPH, three_way(GRAPH, 7), 1.0, ["d1"])
        await submit(agents, 3, epoch=7)  # waits at the edge for a plan
        await asyncio.sleep(7.0)  # one in the cloud, one in tiles, one waiting
        assert (await agents.remotes["e1"].ask("stats")).fields["parked"] == 1
        await agents.configure(fresh=True)
        for name, remote in agents.remotes.items():
            figures = (await remote.ask("stats")).fields
            assert [figures[key] for key in ("active", "parked", "epochs")] == [0, 0, []], name
            remote.events.clear()
        await asyncio.sleep(60.0)
        assert [remote.events for remote in agents.remotes.values()] == [[]] * 4
        await agents.install(GRAPH, three_way(GRAPH), 1.0)  # an epoch number may be taken again
        await submit(agents, 1)
        assert [end(e) for e in await agents.remotes["d1"].wait()] == [("done", 1, 3.0)]

    simulate(test, NAMES)


def test_a_plan_may_have_a_route_of_its_own() -> None:
    async def test(agents: Rig) -> None:
        plan = three_way(GRAPH, 1, 3, 3)
        plan = replace(plan, hosts={**plan.hosts, "edge": "e9"})  # nobody is there
        for name in ("d1", "c1"):
            assert (await agents.remotes[name].ask("install", **timed(GRAPH, plan, 1.0), route="direct")).kind == "ok"
        await submit(agents, 1)
        assert [end(e) for e in await agents.remotes["d1"].wait()] == [("done", 1, 2.0)]
        reply = await agents.remotes["d1"].ask("install", **timed(GRAPH, replace(plan, epoch=2), 1.0), route="sideways")
        assert (reply.kind, reply.fields["text"]) == ("refused", "install: route 'sideways' is not one of relay, direct")

    simulate(test)
