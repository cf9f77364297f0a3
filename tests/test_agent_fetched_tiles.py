"""Agents that fetch tiles from one another: work goes where there is idleness, and the answer is the whole model's."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_rig import Rig, rig, three_way
from test_agent_real import SMALL, answer, same_within, spatial_stack
from tile_rig import GRAPH, NAMES, fetched, install, reports, simulate, submit, tiles_of

from d3node.model import Model, ModelSpec, load_model


@pytest.fixture(scope="module")
def small() -> Model:
    return load_model(ModelSpec(SMALL))


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
