"""Requests go on when a host that they need is lost: what is held, what is computed again, what cannot go on.

In virtual time with sizes only; that the answers are the whole model's is in test_agent_recovery_real.py, what is kept and
left over in test_agent_leftovers.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from agent_rig import Rig, rig, three_way, tiled, timed
from rescue import GRAPH, NAMES, OLD, ask_held, computed, elsewhere, ends, go_on, install, nothing_is_left, simulate, submit

from d3node.clock import VirtualLoop, run
from d3node.exits import Exit
from d3node.plan import Plan


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
