"""What a lost host leaves behind: tensors that are kept and for how long, messages that come late, news that nobody heard.

In virtual time with sizes only; how requests go on is in test_agent_recovery.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from agent_rig import Rig, three_way
from rescue import GRAPH, OLD, ask_held, elsewhere, ends, go_on, install, nothing_is_left, simulate, submit

from d3node.bounds import Bounds
from d3node.channel import Message, Payload


def test_a_host_that_was_taken_for_dead_and_wakes_up_counts_for_nothing() -> None:
    """It computes on, answers and reports under the old epoch; nobody listens. Then it begins anew and is used again."""

    async def test(agents: Rig) -> None:
        old = OLD["parts"]
        await install(agents, old)
        await submit(agents, 1)
        await asyncio.sleep(1.5)
        await agents.remotes["e1"].tell("share", cpu_share=0.0)  # it hangs: no connection ends
        await asyncio.sleep(1.0)
        new = replace(elsewhere("e1"), stacks=())
        plan, _ = await go_on(agents, GRAPH, old, new, 1)
        assert plan.tiers[1] == "device"
        await agents.remotes["e1"].tell("share", cpu_share=1.0)
        await asyncio.sleep(60)
        (done,) = ends(agents)
        assert (done.kind, done.fields["epoch"]) == ("done", 2)
        assert all(e.fields["epoch"] == 2 for e in agents.remotes["c1"].events if e.kind == "report")
        reply = await agents.remotes["e1"].ask(
            "configure", peers=agents.addresses, mode="modelled", tensors="sizes", recovery=True, fresh=True
        )
        assert reply.kind == "ok"
        await install(agents, three_way(GRAPH, 3))
        await submit(agents, 2, epoch=3)
        assert [(e.kind, e.fields["epoch"]) for e in await agents.remotes["d1"].wait(2)] == [("done", 2), ("done", 3)]
        await nothing_is_left(agents, 1, 2)

    simulate(test)


def test_the_tensors_of_a_device_that_seems_gone_are_kept_for_a_while() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, OLD["tiles"])
        await submit(agents, 1)
        await asyncio.sleep(1.5)
        await agents.kill("d1")
        await asyncio.sleep(0.1)
        for name in ("e1", "e2", "e3", "c1"):
            figures = (await agents.remotes[name].ask("stats")).fields
            assert (figures["active"], figures["kept"]) == (0, 1 if name == "e1" else 0)
        assert [e.fields["lost"] for e in await agents.remotes["e1"].wait(1, ["stranded"])] == ["d1"]
        assert await ask_held(agents, OLD["tiles"], 1, ["e1"]) == {"e1": [1]}
        await asyncio.sleep(121)
        assert await ask_held(agents, OLD["tiles"], 1, ["e1"]) == {"e1": []}

    simulate(test)


def test_without_recovery_nothing_is_kept_and_nobody_is_stranded() -> None:
    async def test(agents: Rig) -> None:
        await agents.configure()
        await install(agents, OLD["tiles"])
        await submit(agents, 1)
        await asyncio.sleep(1.5)
        assert (await agents.remotes["d1"].ask("stats")).fields["kept"] == 0
        await agents.kill("e2")
        (end,) = await agents.remotes["d1"].wait()
        assert (end.kind, end.fields["error"]) == ("failed", "PeerLost")
        assert not [e for remote in agents.remotes.values() for e in remote.events if e.kind == "stranded"]

    simulate(test)


@pytest.mark.parametrize("to", ["d1", "e2", "c1"])
def test_what_still_comes_of_the_old_epoch_is_ignored(to: str) -> None:
    """Whatever a host says that was left behind, it says it to nobody; the connection stays, and the request ends once."""

    async def test(agents: Rig) -> None:
        old = OLD["tiles"]
        await install(agents, old)
        await submit(agents, 1)
        await asyncio.sleep(1.5)
        await agents.kill("e1")
        await asyncio.sleep(0.1)
        await go_on(agents, GRAPH, old, elsewhere("e1"), 1, also=("c1", "e2", "e3"))
        channel = await agents.transport.connect(agents.addresses[to])
        await channel.send(Message("hello", {"host": "e1"}))
        shapes = {v: Payload("float32", GRAPH[v].output_shape, GRAPH[v].output_bytes) for v in (3, 6)}
        key = {"request": 1, "epoch": 1}
        for late in (
            Message("tensor", {**key, "vertex": 3, "device": "d1"}, (shapes[3],)),
            Message("answer", {**key, "vertex": 6}, (shapes[6],)),
            Message("tile", {**key, "stack": 0, "tile": 1, "leader": "e1"}, (shapes[3],)),
            Message("tile_done", {**key, "stack": 0, "tile": 1}, (shapes[3],)),
            Message("halo", {**key, "stack": 0, "tile": 1, "leader": "e1", "to": to}, (shapes[3],)),
            Message("failure", {**key, "error": "ComputeError", "text": "too late"}),
            Message("cancel", key),
        ):
            await channel.send(late)
        await asyncio.sleep(0.1)
        assert (await agents.remotes[to].ask("stats")).fields["parked"] == 0
        (done,) = await agents.remotes["d1"].wait()
        assert (done.kind, done.fields["epoch"]) == ("done", 2)
        await asyncio.sleep(60)
        assert len(ends(agents)) == 1
        await nothing_is_left(agents, 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.receive(), 1.0)  # not refused

    simulate(test)


def test_what_happens_without_an_orchestrator_is_told_to_the_next_one() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, OLD["parts"])
        await submit(agents, 1, 2)
        await asyncio.sleep(0.5)
        for name in list(agents.remotes):
            await agents.remotes.pop(name).close()
        await asyncio.sleep(20)
        await agents.kill("c1")
        await asyncio.sleep(20)
        await agents.connect()
        d1 = agents.remotes["d1"]
        assert d1.events == []
        await agents.configure(recovery=True)
        assert [(e.kind, e.fields["request"]) for e in d1.events if e.kind != "report"] == [("done", 1), ("done", 2)]
        assert [e.fields["request"] for e in d1.events if e.kind == "report"] == [1, 2]
        assert [e.fields["request"] for e in agents.remotes["e1"].events if e.kind == "report"] == [1, 2]
        await agents.configure(recovery=True)
        assert len(await d1.wait(2)) == 2, "told once"
        await nothing_is_left(agents, 1, 2)

    simulate(test)


def test_only_so_much_waits_for_the_next_orchestrator_and_nothing_for_a_host_that_begins_anew() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, three_way(GRAPH, 1, 7, 7), 0.0)
        for number in range(10):
            await submit(agents, number)
        await asyncio.sleep(0.005)  # on its way
        await agents.remotes.pop("d1").close()
        await asyncio.sleep(10)
        await agents.connect()
        await agents.configure(recovery=True)
        told = [(e.kind, e.fields["request"]) for e in agents.remotes["d1"].events]
        assert told == [("report", 8), ("done", 8), ("report", 9), ("done", 9)], "the latest, in their order"
        await submit(agents, 10)
        await asyncio.sleep(0.005)
        await agents.remotes.pop("d1").close()
        await asyncio.sleep(10)
        await agents.connect()
        await agents.configure(recovery=True, fresh=True)
        assert agents.remotes["d1"].events == []

    simulate(test, bounds=Bounds(backlog=4))


def test_what_is_kept_is_bounded_in_number_bytes_and_time() -> None:
    nbytes = GRAPH[1].output_bytes

    async def kept(agents: Rig) -> list[int]:
        figures = (await agents.remotes["d1"].ask("stats")).fields
        return [figures["kept"], figures["kept_bytes"]]

    async def test(agents: Rig) -> None:
        await install(agents, OLD["parts"], 0.0)
        await agents.kill("e1")
        for request in range(20):
            await submit(agents, request)
            await asyncio.sleep(0.01)
        assert await kept(agents) == [4, 4 * nbytes]
        assert await ask_held(agents, OLD["parts"], 19, ["d1"]) == {"d1": [1]}
        assert await ask_held(agents, OLD["parts"], 2, ["d1"]) == {"d1": []}
        await asyncio.sleep(31)
        assert await kept(agents) == [0, 0]

    simulate(test, bounds=Bounds(kept_requests=4, kept_s=30.0))
    simulate(test, bounds=Bounds(kept_bytes=5 * nbytes - 1, kept_s=30.0))
