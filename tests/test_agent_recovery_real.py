"""Requests that go on after a host is lost give the whole model's answer, with real tensors: to the bit, or within the tolerance
of tiles where a stack is computed in others than before."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from agent_rig import Rig, data_of, rig, three_way, tiled, timed
from rescue import go_on
from test_agent_real import SMALL, same_within, spatial_stack
from tile_rig import fetched, handed_over

from d3node.channel import Message
from d3node.clock import VirtualLoop, run
from d3node.model import Model, ModelSpec, load_graph, load_model
from d3node.plan import Plan

NAMES = ("d1", "e1", "e2", "e3", "c1")
SEED = 5
GRAPH = load_graph(ModelSpec(SMALL))
STACK = spatial_stack(GRAPH)
ALL = {"e1": 1.0, "e2": 1.0, "e3": 1.0}


@functools.cache
def model() -> Model:
    return load_model(ModelSpec(SMALL))


def simulate(test: Callable[[Rig], Awaitable[None]]) -> None:
    """In virtual time, torch on the event loop; every step and tile takes a second."""

    async def main() -> None:
        async with rig(None, {GRAPH.name: model()}, NAMES, 0.01, inline_compute=True) as agents:
            await agents.configure(tensors="real", mode="modelled", recovery=True)
            await test(agents)

    run(VirtualLoop(), main())


async def begin(agents: Rig, plan: Plan) -> None:
    fields = {
        **timed(GRAPH, plan, 1.0),
        "vertices_s": [{h: [[0.0, 0.5]] * len(s.vertices) for h in ALL} if s.pooled else None for s in plan.stacks],
    }
    for remote in agents.remotes.values():
        reply = await remote.ask("install", **fields)
        assert reply.kind == "ok", reply
    await agents.remotes["d1"].tell("submit", request=1, epoch=plan.epoch, input=SEED, deadline_s=100.0)


async def whole(agents: Rig) -> Message:
    return await agents.remotes["d1"].ask("whole", model=GRAPH.name, input=SEED)


OLD = {
    "tiles": tiled(GRAPH, STACK, tuple(ALL)),
    "neighbours": handed_over(GRAPH, STACK, ALL, "neighbours"),
    "relay": handed_over(GRAPH, STACK, ALL, "relay"),
    "fetched": fetched(GRAPH, STACK, tuple(ALL), (3, 2), stealing=True, reuse=True),
}


@pytest.mark.parametrize("old", OLD.values(), ids=OLD)
@pytest.mark.parametrize("victim", ["e1", "e3"])
def test_a_stack_whose_host_dies_is_computed_by_the_others(old: Plan, victim: str) -> None:
    async def test(agents: Rig) -> None:
        await begin(agents, old)
        await asyncio.sleep(0.5)  # in the middle of the stack
        await agents.kill(victim)
        left = [host for host in ALL if host != victim]
        new = replace(tiled(GRAPH, STACK, left, 2), hosts={**old.hosts, "edge": left[0]})
        plan, _ = await go_on(agents, GRAPH, old, new, 1, seed=SEED)
        assert plan.tiers[0] == ("edge" if victim != "e1" else "device"), "a living leader holds the input"
        (done,) = await agents.remotes["d1"].wait()
        assert done.kind == "done", done.fields
        assert same_within(done, await whole(agents), 1e-5)

    simulate(test)


@pytest.mark.parametrize("cut", [(2, 5), (4, 6), (1, 9), (6, 9)])
@pytest.mark.parametrize("victim", ["e1", "c1"])
@pytest.mark.parametrize("moment", [0.3, 1.3, 2.3])
def test_parts_that_go_on_elsewhere_give_the_answer_to_the_bit(cut: tuple[int, int], victim: str, moment: float) -> None:
    async def test(agents: Rig) -> None:
        old = three_way(GRAPH, 1, *cut)
        await begin(agents, old)
        await asyncio.sleep(moment)
        if any(e.kind == "done" for e in agents.remotes["d1"].events):
            return
        await agents.kill(victim)
        if victim == "e1":
            new = replace(old, epoch=2, hosts={**old.hosts, "edge": "e2"})
        else:
            new = replace(old, epoch=2, tiers=tuple("edge" if t == "cloud" else t for t in old.tiers))
        _, answers = await go_on(agents, GRAPH, old, new, 1, seed=SEED)
        (done,) = await agents.remotes["d1"].wait()
        assert (done.kind, done.fields["epoch"]) == ("done", 2 if answers[0].kind == "ok" else 1), done.fields
        assert data_of(done) == data_of(await whole(agents))
        await asyncio.sleep(20)
        assert [e.kind for e in agents.remotes["d1"].events if e.kind in ("done", "failed")] == ["done"]

    simulate(test)


def test_a_request_goes_on_over_sockets_on_the_real_clock(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path, {GRAPH.name: model()}, NAMES) as agents:
            await agents.configure(tensors="real", mode="modelled", recovery=True)
            old = tiled(GRAPH, STACK, tuple(ALL))
            await agents.remotes["e2"].tell("share", cpu_share=0.0)  # its tile is never done
            await begin(agents, old)
            held: list[int] = []
            while not held:
                held = (await agents.remotes["e1"].ask("held", request=1, epoch=1)).fields["vertices"]
            assert held == [0], "the input of the stack"
            await agents.kill("e2")
            assert (await agents.remotes["e1"].wait(1, ["stranded"]))[0].fields["lost"] == "e2"
            plan, _ = await go_on(agents, GRAPH, old, tiled(GRAPH, STACK, ("e1", "e3"), 2), 1, seed=SEED)
            assert (plan.done, plan.tiers[0]) == ((0,), "edge")
            (done,) = await agents.remotes["d1"].wait()
            assert done.kind == "done", done.fields
            assert same_within(done, await whole(agents), 1e-5)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["corrupt", "truncate"])
@pytest.mark.parametrize(("sender", "receiver"), [("d1", "e1"), ("e1", "c1"), ("c1", "d1"), ("e1", "e2"), ("e2", "e1")])
def test_a_request_goes_on_after_a_spoilt_frame(how: str, sender: str, receiver: str, tmp_path: Path) -> None:
    """Nobody is dead: the connection is, and what was on it; the same hosts go on from what they have."""

    async def main() -> None:
        async with rig(tmp_path, {GRAPH.name: model()}, NAMES, faults=True) as agents:
            await agents.configure(tensors="real", mode="measured", recovery=True)
            old = tiled(GRAPH, STACK, ("e1", "e2"))
            assert (await agents.remotes[sender].ask("spoil", peer=receiver, how=how)).kind == "ok"
            await begin(agents, old)
            (told,) = await agents.remotes["d1"].wait(1, ["stranded"])
            assert told.fields["lost"] in (sender, receiver)
            plan, answers = await go_on(agents, GRAPH, old, replace(old, epoch=2), 1, seed=SEED, also=NAMES)
            assert {answer.kind for answer in answers} == {"ok"}
            (done,) = await agents.remotes["d1"].wait()
            assert (done.kind, done.fields["epoch"]) == ("done", 2), done.fields
            assert same_within(done, await whole(agents), 1e-5)
            assert 0 in plan.done or (sender, receiver) in (("d1", "e1"), ("e1", "d1"))
            for name, remote in agents.remotes.items():
                assert (await remote.ask("ping", over=[1])).kind == "ok"
                figures = (await remote.ask("stats")).fields
                assert (figures["active"], figures["kept"]) == (0, 0), name

    asyncio.run(main())
