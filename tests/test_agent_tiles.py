"""Agents that hand tiles over to one another, or fetch them: the whole model's answer, exact bytes, work where there is idleness,
and every way in which it can end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_rig import Rig, chain, data_of, rig, three_way, timed
from test_agent_real import SMALL, answer, same_within, spatial_stack

from d3node.channel import Message
from d3node.clock import VirtualLoop, run
from d3node.graph import LayerGraph
from d3node.intervals import grid_boxes, split
from d3node.model import Model, ModelSpec, load_model
from d3node.plan import Handover, Plan, Stack, Tile

GRAPH = chain(7, size=32)
NAMES = ("d1", "e1", "e2", "e3", "c1")


@pytest.fixture(scope="module")
def small() -> Model:
    return load_model(ModelSpec(SMALL))


def strips(graph: LayerGraph, vertices: Sequence[int], shares: dict[str, float], handover: Handover) -> Stack:
    """One strip of rows for each host."""
    output = graph[vertices[-1]]
    tiles = tuple(
        Tile(host, rows, (0, output.columns))
        for host, rows in zip(shares, split(output.rows, list(shares.values())), strict=True)
    )
    return Stack(tuple(vertices), (len(tiles), 1), tiles, handover=handover)


def handed_over(
    graph: LayerGraph, vertices: Sequence[int], shares: dict[str, float], handover: Handover, epoch: int = 1, depth: int = 1
) -> Plan:
    """The vertices in stacks of a depth that hand over to one another."""
    runs = [tuple(vertices[i : i + depth]) for i in range(0, len(vertices), depth)]
    stacks = [strips(graph, run, shares, "leader" if run is runs[-1] else handover) for run in runs]
    return replace(three_way(graph, epoch, min(vertices), max(vertices) + 1), stacks=tuple(stacks))


def fetched(
    graph: LayerGraph, vertices: Sequence[int], hosts: Sequence[str], grid: tuple[int, int], epoch: int = 1, **how: bool
) -> Plan:
    """One stack of a grid of tiles, dealt out to the hosts in turn."""
    output = graph[vertices[-1]]
    boxes = grid_boxes(output.rows, output.columns, [1.0] * grid[0], [1.0] * grid[1])
    tiles = tuple(Tile(hosts[i % len(hosts)], *box) for i, box in enumerate(boxes))
    return replace(
        three_way(graph, epoch, min(vertices), max(vertices) + 1), stacks=(Stack(tuple(vertices), grid, tiles, **how),)
    )


async def install(agents: Rig, graph: LayerGraph, plan: Plan, scaled: dict[str, float], fixed: float = 0.0) -> None:
    """Times by host: `fixed` and `scaled` seconds for every vertex's whole map."""
    fields = timed(graph, plan, 0.0)
    fields["vertices_s"] = [
        {host: [[fixed, seconds]] * len(stack.vertices) for host, seconds in scaled.items()} for stack in plan.stacks
    ]
    fields["tiles_s"] = [[scaled.get(tile.host, 0.0) for tile in stack.tiles] for stack in plan.stacks]
    for name in set(plan.hosts.values()) | {tile.host for stack in plan.stacks for tile in stack.tiles}:
        reply = await agents.remotes[name].ask("install", **fields)
        assert reply.kind == "ok", reply


def simulate(test: Callable[[Rig], Awaitable[None]], names: tuple[str, ...] = NAMES, delay_s: float = 0.0) -> None:
    async def main() -> None:
        async with rig(None, {GRAPH.name: GRAPH}, names, delay_s, inline_compute=True, tensors="sizes") as agents:
            await agents.configure()
            await test(agents)

    run(VirtualLoop(), main())


async def submit(agents: Rig, request: Any, epoch: int = 1, deadline_s: float = 100.0, device: str = "d1") -> None:
    await agents.remotes[device].tell("submit", request=request, epoch=epoch, input=0, deadline_s=deadline_s)


async def reports(agents: Rig, requests: int) -> dict[str, list[dict[str, Any]]]:
    """Reports by host, when everything is over; every host that took part has one for every request, and the bytes agree."""
    await asyncio.sleep(5)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, remote in agents.remotes.items():
        found[name] = [e.fields for e in remote.events if e.kind == "report"]
        assert len(found[name]) in (0, requests), name
        figures = (await remote.ask("stats")).fields
        assert (figures["active"], figures["queued"], figures["parked"]) == (0, 0, 0), name
    everything = [report for one in found.values() for report in one]
    assert sum(r["bytes_sent"] for r in everything) == sum(r["bytes_received"] for r in everything) > 0
    return found


def tiles_of(found: dict[str, list[dict[str, Any]]]) -> dict[str, int]:
    return {
        name: sum("tile" in r and r["what"] == "compute" for one in some for r in one["records"]) for name, some in found.items()
    }


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


# -- fetching ----------------------------------------------------------------------------------------------------------------


def test_a_slow_host_fetches_fewer_tiles_and_without_stealing_does_not() -> None:
    counts, took = {}, {}

    async def test(agents: Rig, stealing: bool) -> None:
        plan = fetched(GRAPH, (1, 2, 3), ("e1", "e2", "e3"), (6, 4), stealing=stealing, reuse=not stealing)
        await install(agents, GRAPH, plan, {"e1": 1.0, "e2": 1.0, "e3": 8.0})
        await submit(agents, 1)
        (done,) = await agents.remotes["d1"].wait()
        took[stealing] = done.fields["done_at"] - done.fields["submitted_at"]
        counts[stealing] = tiles_of(await reports(agents, 1))

    for stealing in (True, False):
        simulate(lambda agents, stealing=stealing: test(agents, stealing), delay_s=0.001)  # type: ignore[misc]
    assert sum(counts[True].values()) == sum(counts[False].values()) == 24
    assert counts[False]["e3"] == counts[False]["e1"] == 8
    assert counts[True]["e3"] < 4 < 8 < counts[True]["e1"]
    assert took[True] < took[False] / 2


def test_a_host_that_slows_down_half_way_leaves_its_tiles_to_the_others() -> None:
    async def test(agents: Rig) -> None:
        plan = fetched(GRAPH, (1, 2), ("e1", "e2", "e3"), (8, 4), stealing=True)
        await install(agents, GRAPH, plan, {"e1": 4.0, "e2": 4.0, "e3": 4.0})
        for request in range(2):
            await submit(agents, request)
            await agents.remotes["d1"].wait(request + 1)
            await agents.remotes["e3"].tell("share", cpu_share=0.1)
        found = await reports(agents, 2)
        first, second = (tiles_of({n: some[i : i + 1] for n, some in found.items()}) for i in (0, 1))
        assert max(first["e1"], first["e2"], first["e3"]) - min(first["e1"], first["e2"], first["e3"]) <= 1
        assert second["e3"] <= 2 < 14 <= second["e1"]
        assert sum(first.values()) == sum(second.values()) == 32

    simulate(test)


def test_several_devices_share_the_idle_hosts_in_turn() -> None:
    """Two devices' requests at the same time: both get on, neither waits for the other to be done."""

    async def test(agents: Rig) -> None:
        for epoch, device in enumerate(("d1", "d2"), start=1):
            plan = fetched(GRAPH, (1, 2), ("e1", "e2", "e3"), (6, 4), epoch, stealing=True)
            plan = replace(plan, hosts={**plan.hosts, "device": device})
            await install(agents, GRAPH, plan, {"e1": 1.0, "e2": 1.0, "e3": 1.0})
        await submit(agents, 1, 1, device="d1")
        await submit(agents, 2, 2, device="d2")
        ends = [(await agents.remotes[d].wait())[0].fields for d in ("d1", "d2")]
        took = [end["done_at"] - end["submitted_at"] for end in ends]
        assert abs(took[0] - took[1]) < 0.15 * max(took)
        await asyncio.sleep(1)
        computed = Counter(
            (e.fields["epoch"], n) for n, r in agents.remotes.items() for e in r.events if e.kind == "report"
            for record in e.fields["records"] if "tile" in record and record["what"] == "compute"
        )  # fmt: skip
        assert all(computed[epoch, host] >= 6 for epoch in (1, 2) for host in ("e1", "e2", "e3"))
        assert sum(computed.values()) == 48

    simulate(test, ("d1", "d2", "e1", "e2", "e3", "c1"), delay_s=0.001)


def positions(found: dict[str, list[dict[str, Any]]]) -> int:
    return sum(sum(r["positions"]) for some in found.values() for one in some for r in one["records"] if "positions" in r)


def test_reuse_computes_less_and_the_same_every_time() -> None:
    seen: list[Any] = []

    async def test(agents: Rig, reuse: bool) -> None:
        plan = fetched(GRAPH, (1, 2, 3, 4), ("e1", "e2", "e3"), (3, 3), stealing=True, reuse=reuse)
        await install(agents, GRAPH, plan, {"e1": 1.0, "e2": 1.0, "e3": 2.0})
        for request in range(2):
            await submit(agents, request)
            await agents.remotes["d1"].wait(request + 1)
        found = await reports(agents, 2)
        seen.append((positions(found), found))

    for reuse in (True, True, False):
        simulate(lambda agents, reuse=reuse: test(agents, reuse), delay_s=0.001)  # type: ignore[misc]
    assert seen[0] == seen[1]
    least = 2 * 4 * 32 * 32
    assert least <= seen[0][0] < 0.8 * seen[2][0]


@pytest.mark.parametrize("encoding", ["float32", "uint8"])
@pytest.mark.parametrize("how", [{"stealing": True}, {"reuse": True}, {"stealing": True, "reuse": True}])
def test_fetched_tiles_give_the_whole_models_answer(small: Model, encoding: str, how: dict[str, bool], tmp_path: Path) -> None:
    async def main() -> None:
        graph = small.graph
        async with rig(tmp_path, {graph.name: small}, NAMES) as agents:
            await agents.configure(tensors="real", mode="measured", input_encoding=encoding)
            plan = fetched(graph, spatial_stack(graph), ("e1", "e2", "e3"), (3, 4), **how)
            await agents.install(graph, plan)
            wholes = [await agents.remotes["c1"].ask("whole", model=graph.name, input=seed) for seed in (3, 4)]
            together = await asyncio.gather(*(answer(agents, seed, 1, seed) for seed in (3, 4)))
            for got, whole in zip(together, wholes, strict=True):
                assert same_within(got, whole, 1e-5)

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


def test_a_host_with_tiles_of_its_own_does_not_steal_and_an_idle_one_does() -> None:
    """Two leaders: e1 has requests of d1, e2 of d2, one of which is much smaller; e2 helps when it is through with its own."""

    async def test(agents: Rig) -> None:
        for epoch, (device, leader, grid) in enumerate((("d1", "e1", (6, 4)), ("d2", "e2", (2, 2))), start=1):
            plan = fetched(GRAPH, (1, 2), ("e1", "e2"), grid, epoch, stealing=True)
            plan = replace(plan, hosts={**plan.hosts, "device": device, "edge": leader})
            await install(agents, GRAPH, plan, {"e1": 1.0, "e2": 1.0} if epoch == 1 else {"e1": 0.5, "e2": 0.5})
        await submit(agents, 1, 1, device="d1")
        await submit(agents, 2, 2, device="d2")
        for device in ("d1", "d2"):
            assert (await agents.remotes[device].wait())[0].kind == "done"
        await asyncio.sleep(1)
        by_host: dict[str, list[tuple[float, int]]] = {}
        for name in ("e1", "e2"):
            for event in agents.remotes[name].events:
                if event.kind == "report":
                    work = [r["start"] for r in event.fields["records"] if r["what"] == "compute" and "tile" in r]
                    by_host.setdefault(name, []).extend((start, event.fields["epoch"]) for start in work)
        order = {name: [epoch for _, epoch in sorted(work)] for name, work in by_host.items()}
        assert order["e1"] == [1] * len(order["e1"])
        assert order["e2"][:4] == [2, 2, 2, 2]
        assert order["e2"].count(1) >= 6

    simulate(test, ("d1", "d2", "e1", "e2", "c1"), delay_s=0.001)


def test_two_stacks_in_a_row_are_fetched_over_a_slow_network() -> None:
    """What a host says about the first stack may arrive when the second is being dealt already."""

    async def test(agents: Rig) -> None:
        first, second = (
            fetched(GRAPH, run, ("e1", "e2", "e3"), (2, 3), stealing=True, reuse=True).stacks[0] for run in ((1, 2), (3, 4))
        )
        plan = replace(three_way(GRAPH, 1, 1, 5), stacks=(first, second))
        await install(agents, GRAPH, plan, {"e1": 0.001, "e2": 1.0, "e3": 1.0})
        for request in range(3):
            await submit(agents, request)
        assert [e.kind for e in await agents.remotes["d1"].wait(3)] == ["done"] * 3
        assert sum(tiles_of(await reports(agents, 3)).values()) == 3 * 12

    simulate(test, delay_s=0.2)
