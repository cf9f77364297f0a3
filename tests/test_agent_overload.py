"""A host takes on so many requests and no more; the device that asks in vain hears of it by name, and all others are served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from agent_rig import Rig, chain, rig, three_way, tiled

from d3node.bounds import Bounds
from d3node.channel import Message
from d3node.clock import VirtualLoop, run

GRAPH = chain(7)
NAMES = ("d1", "e1", "e2", "c1")


def simulate(test: Callable[[Rig], Awaitable[None]], **bounds: int) -> None:
    async def main() -> None:
        async with rig(None, {GRAPH.name: GRAPH}, NAMES, 0.01, inline_compute=True, bounds=Bounds(**bounds)) as agents:  # type: ignore[arg-type]
            await agents.configure()
            await test(agents)

    run(VirtualLoop(), main())


async def flood(agents: Rig, count: int, every_s: float = 0.0) -> list[Message]:
    for request in range(count):
        await agents.remotes["d1"].tell("submit", request=request, epoch=1, input=0, deadline_s=1000.0)
        await asyncio.sleep(every_s)
    return await agents.remotes["d1"].wait(count)


async def nothing_is_left(agents: Rig) -> None:
    await asyncio.sleep(50)
    for name, remote in agents.remotes.items():
        figures = (await remote.ask("stats")).fields
        assert (figures["active"], figures["queued"]) == (0, 0), name


def test_a_device_refuses_what_is_more_than_it_takes() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, three_way(GRAPH, 1, 7, 7), 1.0)
        ends = await flood(agents, 10)
        assert sorted(e.fields["request"] for e in ends if e.kind == "done") == [0, 1, 2]
        refused = [e.fields for e in ends if e.kind == "failed"]
        assert {(f["error"], f["text"]) for f in refused} == {
            ("Overloaded", "d1 has 3 requests in hand and takes no more; send fewer at a time")
        }
        assert all(f["done_at"] == f["submitted_at"] for f in refused)
        await nothing_is_left(agents)

    simulate(test, requests=3)


@pytest.mark.parametrize("slow", ["e1", "e2", "c1"])
def test_a_host_behind_the_device_refuses_and_the_device_ends_the_request(slow: str) -> None:
    async def test(agents: Rig) -> None:
        for name, remote in agents.remotes.items():
            most = {"in_flight": 2} if name == slow else {}
            fields = {"peers": agents.addresses, "mode": "modelled", "tensors": "sizes", **most}
            assert (await remote.ask("configure", **fields)).kind == "ok"
        await agents.install(GRAPH, tiled(GRAPH, (2, 3), ("e1", "e2"), device=2), 0.1)
        await agents.remotes[slow].tell("share", cpu_share=0.0)
        task = asyncio.create_task(flood(agents, 6, 1.0))
        await asyncio.sleep(3.0)
        assert (await agents.remotes[slow].ask("stats")).fields["active"] == 2
        await asyncio.sleep(3.0)
        assert (await agents.remotes[slow].ask("stats")).fields["active"] == 2
        await agents.remotes[slow].tell("share", cpu_share=1.0)
        ends = {e.fields["request"]: e for e in await task}
        assert [ends[r].kind for r in range(6)] == ["done", "done", "failed", "failed", "failed", "failed"]
        for request in range(2, 6):
            failed = ends[request].fields
            assert (failed["error"], failed["text"].split()[0]) == ("Overloaded", slow)
            assert failed["done_at"] - failed["submitted_at"] < 1.0
        await nothing_is_left(agents)

    simulate(test)


@pytest.mark.parametrize("most", [0, -1, "many", 1.5, True])
def test_a_bound_that_lets_nothing_through_is_refused(most: object) -> None:
    async def test(agents: Rig) -> None:
        fields = {"peers": agents.addresses, "mode": "modelled", "tensors": "sizes", "in_flight": most}
        reply = await agents.remotes["e1"].ask("configure", **fields)
        assert reply.kind == "refused"
        assert "requests in flight; a whole number from 1 on is needed" in reply.fields["text"]

    simulate(test)
