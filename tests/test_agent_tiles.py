"""Agents that hand tiles over to one another, or fetch them: the whole model's answer, exact bytes, and every way in which it can
end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from agent_rig import Rig, data_of, rig, three_way, timed
from test_agent_real import SMALL, answer, same_within, spatial_stack
from tile_rig import GRAPH, NAMES, fetched, handed_over, install, reports, simulate, strips, submit, tiles_of

from d3node.channel import Message
from d3node.model import Model, ModelSpec, load_model
from d3node.plan import Handover, Plan


@pytest.fixture(scope="module")
def small() -> Model:
    return load_model(ModelSpec(SMALL))


# -- handing over ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handover", ["neighbours", "relay"])
def test_halos_are_all_that_travels_between_the_first_layer_and_the_last(handover: Handover) -> None:
    # Three strips of a 32x32 map of 3 channels, five 3x3 layers: two borders of one row each way, before
    # every layer but the first.

    async def test(agents: Rig) -> None:
        plan = handed_over(GRAPH, range(1, 6), {"e1": 1.0, "e2": 1.0, "e3": 1.0}, handover)
        await install(agents, GRAPH, plan, {"e1": 1.0, "e2": 1.0, "e3": 1.0})
        await submit(agents, 1)
        (done,) = await agents.remotes["d1"].wait()
        assert done.kind == "done"
        found = await reports(agents, 1)
        halos = [r for name in ("e1", "e2", "e3") for r in found[name][0]["records"] if r.get("kind") == "halo"]
        ways = 4 if handover == "neighbours" else 2 + 2 * 2  # what e2 and e3 exchange goes by way of e1
        assert len(halos) == 4 * ways
        row = 32 * 3 * 4
        assert all(row < halo["bytes"] < row + 200 for halo in halos)
        assert tiles_of(found) == {"d1": 0, "e1": 5, "e2": 5, "e3": 5, "c1": 0}

    simulate(test)


def test_neighbours_wait_only_for_what_they_read() -> None:
    # Five layers in strips of e1, e2, e3, of which e3 is slow: nobody waits for a barrier, but the delay
    # spreads by a strip a layer.

    async def test(agents: Rig) -> None:
        plan = handed_over(GRAPH, (1, 2, 3), {"e1": 1.0, "e2": 1.0, "e3": 1.0}, "neighbours")
        await install(agents, GRAPH, plan, {"e1": 1.0, "e2": 1.0, "e3": 3.0})
        await submit(agents, 1)
        (done,) = await agents.remotes["d1"].wait()
        assert done.fields["done_at"] - done.fields["submitted_at"] == pytest.approx(9.0)
        found = await reports(agents, 1)
        starts = {n: [r["start"] for r in found[n][0]["records"] if r["what"] == "compute" and "tile" in r] for n in ("e1", "e2")}
        begun = starts["e1"][0]
        assert [s - begun for s in starts["e1"]] == pytest.approx([0.0, 1.0, 4.0])  # layer 3 waits for e2's layer 2
        assert [s - begun for s in starts["e2"]] == pytest.approx([0.0, 3.0, 6.0])  # which waits for e3's layer 1

    simulate(test)


@pytest.mark.parametrize("handover", ["neighbours", "relay"])
@pytest.mark.parametrize("encoding", ["float32", "uint8"])
@pytest.mark.parametrize(("shares", "depth"), [((1.0, 1.0, 1.0), 1), ((1.0, 0.0, 3.0), 1), ((2.0, 0.2, 1.0), 2)])
def test_strips_that_are_handed_over_give_the_whole_models_answer(
    small: Model, handover: Handover, encoding: str, shares: tuple[float, ...], depth: int, tmp_path: Path
) -> None:
    """A network with branches: maps that are read twice, and a join."""

    async def main() -> None:
        graph = small.graph
        vertices = spatial_stack(graph)
        async with rig(tmp_path, {graph.name: small}, NAMES) as agents:
            await agents.configure(tensors="real", mode="measured", input_encoding=encoding)
            whole = await agents.remotes["c1"].ask("whole", model=graph.name, input=3)
            stacks = []
            hosts = dict(zip(("e1", "e2", "e3"), shares, strict=True))
            run: tuple[int, ...] = ()
            for v in vertices:  # stacks as deep as asked for, where they have one output
                run = (*run, v)
                if len(run) >= depth or graph.boundary(run)[1] != (v,):
                    if graph.boundary(run)[1] == (v,):
                        stacks.append(strips(graph, run, hosts, handover))
                    else:
                        stacks += [strips(graph, (u,), hosts, handover) for u in run]
                    run = ()
            stacks += [strips(graph, run, hosts, handover)] if run else []
            stacks[-1] = replace(stacks[-1], handover="leader")
            plan = replace(three_way(graph, 1, 1, max(vertices) + 1), stacks=tuple(stacks))
            await agents.install(graph, plan)
            for request in range(2):
                assert same_within(await answer(agents, request, 1), whole, 1e-5)

    asyncio.run(main())


# -- ends --------------------------------------------------------------------------------------------------------------------


def plans() -> list[Plan]:
    shares = {"e1": 1.0, "e2": 1.0, "e3": 1.0}
    return [
        handed_over(GRAPH, range(1, 6), shares, "neighbours"),
        handed_over(GRAPH, range(1, 6), shares, "relay"),
        fetched(GRAPH, range(1, 5), ("e1", "e2", "e3"), (4, 3), stealing=True, reuse=True),
    ]


@pytest.mark.parametrize("plan", plans(), ids=["neighbours", "relay", "fetched"])
@pytest.mark.parametrize("moment", [0.0005, 0.5, 1.7])
def test_a_request_that_is_late_ends_everywhere_and_the_next_one_runs(plan: Plan, moment: float) -> None:
    async def test(agents: Rig) -> None:
        await install(agents, GRAPH, plan, {"e1": 1.0, "e2": 1.0, "e3": 1.0})
        await submit(agents, 1, deadline_s=moment)
        await submit(agents, 2)
        first, second = await agents.remotes["d1"].wait(2)
        assert (first.kind, first.fields["error"], second.kind) == ("failed", "DeadlineExceeded", "done")
        await asyncio.sleep(50)
        for name, remote in agents.remotes.items():
            assert (await remote.ask("stats")).fields["active"] == 0, name
            seen = [e.fields["request"] for e in remote.events if e.kind == "report"]
            assert len(seen) == len(set(seen)), name

    simulate(test, delay_s=0.001)


@pytest.mark.parametrize("plan", plans(), ids=["neighbours", "relay", "fetched"])
@pytest.mark.parametrize("victim", ["e1", "e3"])
def test_a_host_that_dies_fails_its_requests_at_once(plan: Plan, victim: str) -> None:
    async def test(agents: Rig) -> None:
        await install(agents, GRAPH, plan, {"e1": 1.0, "e2": 1.0, "e3": 1.0})
        await submit(agents, 1)
        await asyncio.sleep(0.7)
        await agents.kill(victim)
        (end,) = await agents.remotes["d1"].wait()
        assert (end.kind, end.fields["error"]) == ("failed", "PeerLost")
        assert end.fields["done_at"] - end.fields["submitted_at"] < 1.0
        await asyncio.sleep(20)
        for name in set(agents.remotes) - {victim}:
            assert (await agents.remotes[name].ask("stats")).fields["active"] == 0, name

    simulate(test, delay_s=0.001)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Message("steal", {"stack": 0}), "was offered no tiles"),
        (Message("tile", {"stack": 0, "tile": 0, "leader": "e1", "given": [], "keep": []}), "has not asked for tile"),
        (Message("over", {"stack": 0, "leader": "e1"}), "does not wait for 'over'"),
        (Message("offer", {"stack": 7, "leader": "e1"}), "does not wait for 'offer'"),
        (Message("halo", {"stack": 0, "tile": 0, "leader": "e1", "to": "e2"}), "no part in a chain"),
    ],
)
def test_messages_that_make_no_sense_are_refused_in_words(message: Message, text: str) -> None:
    async def test(agents: Rig) -> None:
        plan = fetched(GRAPH, (1, 2), ("e1", "e2", "e3"), (2, 2), stealing=True)
        await install(agents, GRAPH, plan, {"e1": 1.0, "e2": 1.0, "e3": 1.0})
        target = "e1" if message.kind == "steal" else "e2"
        await submit(agents, 1)
        await asyncio.sleep(0.1)
        channel = await agents.transport.connect(agents.addresses[target])
        await channel.send(Message("hello", {"host": "c1" if target == "e1" else "e1"}))
        await channel.send(Message(message.kind, {"request": 1 if target == "e1" else 9, "epoch": 1, **message.fields}))
        said = await channel.receive()
        assert said.kind == "refused"
        assert text in said.fields["text"]

    simulate(test)


def test_times_that_are_missing_for_fetched_tiles_are_asked_for() -> None:
    async def test(agents: Rig) -> None:
        plan = fetched(GRAPH, (1, 2), ("e1", "e2"), (2, 2), stealing=True)
        reply = await agents.remotes["e2"].ask("install", **timed(GRAPH, plan, 1.0))
        assert (reply.kind, reply.fields["error"]) == ("refused", "PlanError")
        assert "no times were given for the vertices of stack 0 on e2" in reply.fields["text"]

    simulate(test)


def test_answers_of_real_tiles_are_not_just_shapes(small: Model, tmp_path: Path) -> None:
    """Two images, two answers: what is reused and handed over is this request's."""

    async def main() -> None:
        graph = small.graph
        async with rig(tmp_path, {graph.name: small}, NAMES) as agents:
            await agents.configure(tensors="real", mode="measured")
            await agents.install(graph, fetched(graph, spatial_stack(graph), ("e1", "e2"), (3, 3), stealing=True, reuse=True))
            one, two = [await answer(agents, seed, 1, seed) for seed in (3, 4)]
            assert data_of(one) != data_of(two)

    asyncio.run(main())
