"""Requests go on when a host that they need is lost: what is held, what is computed again, what is too late, what is left over.

In virtual time with sizes only; that the answers are the whole model's is in test_agent_recovery_real.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from agent_rig import Rig, chain, rig, three_way, tiled, timed
from rescue import ask_held, go_on
from tile_rig import fetched, handed_over

from d3node.bounds import Bounds
from d3node.channel import Message, Payload
from d3node.clock import VirtualLoop, run
from d3node.exits import Exit
from d3node.plan import Plan

GRAPH = chain(7)
NAMES = ("d1", "e1", "e2", "e3", "c1")


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


OLD = {
    "tiles": tiled(GRAPH, (2, 3), ("e1", "e2", "e3"), device=2),
    "neighbours": handed_over(GRAPH, (2, 3), {"e1": 1.0, "e2": 1.0, "e3": 1.0}, "neighbours"),
    "relay": handed_over(GRAPH, (2, 3), {"e1": 1.0, "e2": 1.0, "e3": 1.0}, "relay"),
    "fetched": fetched(GRAPH, (2, 3), ("e1", "e2", "e3"), (4, 3), stealing=True, reuse=True),
    "parts": three_way(GRAPH),
}


@pytest.mark.parametrize("old", OLD.values(), ids=OLD)
@pytest.mark.parametrize("victim", ["e1", "e2", "c1"])
@pytest.mark.parametrize("moment", [0.5, 1.005, 1.2, 1.7, 2.5])
def test_requests_go_on_without_the_host_that_is_lost(old: Plan, victim: str, moment: float) -> None:
    async def test(agents: Rig) -> None:
        await install(agents, old)
        await submit(agents, 1, 2)
        await asyncio.sleep(moment)
        await agents.kill(victim)
        involved = victim in old.hosts.values() or any(tile.host == victim for stack in old.stacks for tile in stack.tiles)
        await asyncio.sleep(0.5)
        over = {e.fields["request"] for e in ends(agents)}
        begun_early: set[int] = set()  # before the device had computed its part
        assert not any(e.kind == "failed" for e in ends(agents))
        for request in {1, 2} - over:
            told = [e for remote in agents.remotes.values() for e in remote.events if e.kind == "stranded"]
            mine = [e.fields for e in told if e.fields["request"] == request]
            assert bool(mine) == involved
            assert all(f["lost"] == victim and victim in f["text"] for f in mine)
            assert len({f["host"] for f in mine}) == len(mine), "once for each host"
            if involved:
                plan, answers = await go_on(agents, GRAPH, old, elsewhere(victim, 2 + request), request)
                if answers[0].kind == "refused":
                    assert "is over" in answers[0].fields["text"]
                    assert request in {e.fields["request"] for e in ends(agents)}
                    continue
                assert {a.kind for a in answers} == {"ok"}
                begun_early |= {request} if 1 not in plan.done else set()
        await asyncio.sleep(60)
        assert sorted((e.kind, e.fields["request"]) for e in ends(agents)) == [("done", 1), ("done", 2)]
        for request in {1, 2} - begun_early:
            assert computed(agents, request, "d1") == {1: 1}, "the device's own part is never computed again"
        await nothing_is_left(agents, 1, 2)

    simulate(test)


def test_the_leader_holds_the_inputs_of_a_stack_whose_host_dies() -> None:
    async def test(agents: Rig) -> None:
        old = OLD["tiles"]
        await install(agents, old, 1.0)
        await submit(agents, 1)
        await asyncio.sleep(1.5)  # in the middle of the tiles
        await agents.kill("e3")
        await agents.remotes["e1"].wait(1, ["stranded"])
        assert await ask_held(agents, old, 1, ["d1", "e1", "c1"]) == {"d1": [1], "e1": [1], "c1": []}
        begun = asyncio.get_running_loop().time()
        plan, _ = await go_on(agents, GRAPH, old, elsewhere("e3"), 1)
        assert (plan.done, plan.tiers[1]) == ((0, 1), "edge")
        (done,) = await agents.remotes["d1"].wait()
        assert done.fields["submitted_at"] == pytest.approx(begun - 1.5, abs=0.1)
        assert computed(agents, 1, "d1") == {1: 1}
        await nothing_is_left(agents, 1)

    simulate(test)


def test_without_a_cloud_the_edge_computes_the_rest_and_answers() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, OLD["parts"])
        await submit(agents, 1)
        await asyncio.sleep(2.5)  # in the cloud
        await agents.kill("c1")
        await asyncio.sleep(0.1)
        plan, _ = await go_on(agents, GRAPH, OLD["parts"], elsewhere("c1"), 1)
        assert plan.done == (0, 1, 2, 3), "the edge still has what it sent to the cloud"
        (done,) = await agents.remotes["d1"].wait()
        assert done.kind == "done"
        assert computed(agents, 1, "e1") == {2: 1, 3: 1, 4: 1, 5: 1, 6: 1}
        await nothing_is_left(agents, 1)

    simulate(test)


def test_without_any_edge_host_the_device_sends_straight_to_the_cloud() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, OLD["parts"])
        await submit(agents, 1)
        await asyncio.sleep(1.5)
        await agents.kill("e1")
        await asyncio.sleep(0.1)
        new = three_way(GRAPH, 2, 2, 2)
        plan, _ = await go_on(agents, GRAPH, OLD["parts"], new, 1, route="direct")
        assert plan.done == (0, 1)
        (done,) = await agents.remotes["d1"].wait()
        assert done.kind == "done"
        await nothing_is_left(agents, 1)

    simulate(test)


def test_a_restart_computes_everything_again() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, OLD["tiles"])
        await submit(agents, 1)
        await asyncio.sleep(1.5)
        await agents.kill("e2")
        await asyncio.sleep(0.1)
        await go_on(agents, GRAPH, OLD["tiles"], elsewhere("e2"), 1, restart=True)
        (done,) = await agents.remotes["d1"].wait()
        assert (done.kind, done.fields["epoch"]) == ("done", 2)
        assert computed(agents, 1, "d1") == {1: 2}
        await nothing_is_left(agents, 1)

    simulate(test)


def test_one_host_after_the_other_is_lost_and_older_tensors_still_serve() -> None:
    async def test(agents: Rig) -> None:
        old = OLD["tiles"]
        await install(agents, old, 1.0)
        await submit(agents, 1)
        await asyncio.sleep(1.5)
        for number, victim in enumerate(("e3", "e2", "e1"), 2):
            await agents.kill(victim)
            await asyncio.sleep(0.3)  # in the middle of the tiles again
            left = [host for host in ("e1", "e2", "e3") if host in agents.tasks]
            new = tiled(GRAPH, (2, 3), left, number, device=2) if left else three_way(GRAPH, number, 2, 2)
            old, answers = await go_on(agents, GRAPH, old, new, 1, route="relay" if left else "direct")
            assert {a.kind for a in answers} == {"ok"}
            await asyncio.sleep(0.3)
        (done,) = await agents.remotes["d1"].wait()
        assert done.kind == "done"
        assert old.tiers[1] == "device", "the tensor that the device sent first"
        assert computed(agents, 1, "d1") == {1: 1}
        await nothing_is_left(agents, 1)

    simulate(test)


def test_the_deadline_holds_whether_or_not_the_request_goes_on() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, OLD["tiles"])
        await submit(agents, 1, 2, deadline_s=5.0)
        await asyncio.sleep(1.5)
        await agents.kill("e1")
        await asyncio.sleep(0.5)
        await go_on(agents, GRAPH, OLD["tiles"], elsewhere("e1"), 1, seconds=50.0, deadline_s=3.0)
        first, second = await agents.remotes["d1"].wait(2)
        for end in (first, second):
            assert (end.kind, end.fields["error"], end.fields["text"]) == ("failed", "DeadlineExceeded", "not done within 5 s")
            assert end.fields["done_at"] - end.fields["submitted_at"] == pytest.approx(5.0)
        await asyncio.sleep(60)
        assert len(ends(agents)) == 2
        await nothing_is_left(agents, 1, 2)

    simulate(test)


def test_a_request_that_is_over_does_not_go_on() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, OLD["parts"])
        await install(agents, elsewhere("e3"))
        await submit(agents, 1)
        await agents.remotes["d1"].wait()
        what = {"request": 1, "was": 1, "epoch": 2, "input": 0, "deadline_s": 10.0}
        reply = await agents.remotes["d1"].ask("resume", provide=[], **what)
        assert (reply.kind, reply.fields["error"]) == ("refused", "PlanError")
        assert "is over, or never began" in reply.fields["text"]
        assert len(ends(agents)) == 1
        await nothing_is_left(agents, 1)

    simulate(test)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"provide": [1, 2]}, "is to provide \\[1, 2\\], but epoch 2 needs \\[1\\]"),
        ({"provide": []}, "is to provide \\[\\], but epoch 2 needs \\[1\\]"),
        ({"epoch": 9}, "epoch 9 is not installed on e1"),
        ({"request": 7}, "no longer holds the tensors of \\[1\\] of request 7"),
        ({"epoch": 1}, "another epoch than 1 only"),
    ],
)
def test_what_cannot_go_on_is_refused_in_words_and_nothing_changes(change: dict[str, Any], text: str) -> None:
    async def test(agents: Rig) -> None:
        await install(agents, OLD["tiles"])
        left = elsewhere("e3")
        await install(agents, replace(left, tiers=("device", "edge", *left.tiers[2:]), done=(0, 1)))
        await submit(agents, 1)
        await asyncio.sleep(1.5)
        what = {"request": 1, "was": 1, "epoch": 2, "provide": [1], "input": 0, "deadline_s": 10.0, **change}
        reply = await agents.remotes["e1"].ask("resume", **what)
        assert (reply.kind, reply.fields["error"]) == ("refused", "PlanError")
        with pytest.raises(AssertionError, match=text):
            raise AssertionError(reply.fields["text"])
        assert [(e.kind, e.fields["epoch"]) for e in await agents.remotes["d1"].wait()] == [("done", 1)]
        await nothing_is_left(agents, 1)

    simulate(test)


def test_a_device_goes_on_under_a_plan_of_its_own_only() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, OLD["parts"])
        await agents.install(
            GRAPH, replace(three_way(GRAPH, 4), hosts={"device": "e3", "edge": "d1", "cloud": "c1"}), 1.0, ["d1"]
        )
        await submit(agents, 1)
        await asyncio.sleep(0.5)
        for number, text in ((2, "is not installed on d1"), (4, "is another's on d1")):
            what = {"request": 1, "was": 1, "epoch": number, "provide": [], "input": 0, "deadline_s": 10.0}
            reply = await agents.remotes["d1"].ask("resume", **what)
            assert (reply.kind, reply.fields["error"]) == ("refused", "PlanError")
            assert text in reply.fields["text"]
        assert [(e.kind, e.fields["epoch"]) for e in await agents.remotes["d1"].wait()] == [("done", 1)]
        await nothing_is_left(agents, 1)

    simulate(test)


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


def test_a_host_that_comes_back_without_its_plans_strands_what_is_sent_to_it() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, OLD["parts"])
        await asyncio.sleep(1.0)
        await agents.remotes["e1"].ask(
            "configure", peers=agents.addresses, mode="modelled", tensors="sizes", recovery=True, fresh=True
        )
        await submit(agents, 1)
        (told,) = await agents.remotes["d1"].wait(1, ["stranded"])
        assert (told.fields["lost"], told.fields["host"]) == ("e1", "d1")
        assert "epoch 1 was not installed on e1" in told.fields["text"]
        await go_on(agents, GRAPH, OLD["parts"], three_way(GRAPH, 2), 1)
        assert [e.kind for e in await agents.remotes["d1"].wait()] == ["done"]
        await nothing_is_left(agents, 1)

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


@pytest.mark.parametrize("kind", ["exits", "two ways", "coded", "placed"])
def test_plans_that_cannot_be_gone_on_with_begin_again_from_the_input(kind: str) -> None:
    base = three_way(GRAPH)
    old = {
        "exits": replace(base, exits=(Exit(6),)),
        "two ways": replace(base, two_way=True, tiers=("device", "device", "edge", "edge", "edge", "edge", "device")),
        "coded": replace(base, coding="int8-shuffle-deflate"),
        "placed": replace(base, placed=((1, "d2"),)),
    }[kind]

    async def test(agents: Rig) -> None:
        steps = {host: [1.0] for host in ("d2",)} if old.placed else {}
        fields = timed(GRAPH, old, 1.0)
        for remote in agents.remotes.values():
            reply = await remote.ask("install", **{**fields, "steps_s": {**fields["steps_s"], **steps}})
            assert reply.kind == "ok", reply
        devices = ("d1", "d2") if old.placed else ("d1",)
        for device in devices:
            await agents.remotes[device].tell("submit", request=1, epoch=1, input=0, deadline_s=100.0)
        await asyncio.sleep(1.5)
        await agents.kill("e1")
        await asyncio.sleep(0.1)
        assert await ask_held(agents, old, 1, ["d1", "c1"]) == {"d1": [], "c1": []}
        new = replace(old, epoch=2, hosts={**old.hosts, "edge": "e2"})
        fields = timed(GRAPH, new, 1.0)
        for host in (*devices, "e2", "c1"):
            reply = await agents.remotes[host].ask("install", **{**fields, "steps_s": {**fields["steps_s"], **steps}})
            assert reply.kind == "ok", reply
        for device in devices:
            what = {"request": 1, "was": 1, "epoch": 2, "input": 0, "deadline_s": 90.0}
            reply = await agents.remotes[device].ask("resume", provide=[], **what)
            assert reply.kind == "ok", reply
        for device in devices[1:]:
            await agents.remotes[device].tell("submit", request=1, epoch=2, input=0, deadline_s=90.0)
        (done,) = await agents.remotes["d1"].wait()
        assert (done.kind, done.fields["epoch"]) == ("done", 2)
        await asyncio.sleep(20)
        assert len(ends(agents)) == 1
        await nothing_is_left(agents, 1)

    simulate(test, names=(*NAMES, "d2"))


def test_a_plan_with_an_answer_of_its_own_falls_back_on_it_when_the_others_are_lost() -> None:
    exits = (Exit(2, "confidence", 0.9, 0.0, local=True), Exit(6))
    graph = replace(GRAPH, name="early", outputs=(2, 6))

    async def main() -> None:
        async with rig(None, {graph.name: graph}, ("d1", "e1", "c1"), 0.01, inline_compute=True, tensors="sizes") as agents:
            await agents.configure(recovery=True)
            await agents.install(graph, replace(three_way(graph, 1, 3, 4), exits=exits, fallback_s=50.0), 1.0)
            await submit(agents, 1)
            await asyncio.sleep(1.5)
            await agents.kill("e1")
            (done,) = await agents.remotes["d1"].wait()
            assert (done.kind, done.fields["fallback"], done.fields["exit"]) == ("done", True, 0)
            assert done.fields["done_at"] - done.fields["submitted_at"] < 2.0
            await nothing_is_left(agents, 1)

    run(VirtualLoop(), main())


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
