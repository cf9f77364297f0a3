"""The agent in virtual time, sizes only: exact times of queues, tiles and shares, epochs, and how a request can end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from agent_rig import MemoryTransport, Rig, chain, rig, three_way, tiled, timed

from d3node.bounds import Bounds
from d3node.channel import Message
from d3node.clock import VirtualLoop, run
from d3node.errors import ChannelError
from d3node.intervals import reverse

GRAPH = chain(7)
SIZES = {GRAPH.name: GRAPH}


def simulate(
    test: Callable[[Rig], Awaitable[None]], names: tuple[str, ...] = ("d1", "e1", "c1"), delay_s: float = 0.0, **config: Any
) -> None:
    async def main() -> None:
        async with rig(None, SIZES, names, delay_s, inline_compute=True, tensors="sizes", **config) as agents:
            await agents.configure()
            await test(agents)

    run(VirtualLoop(), main())


def end(message: Message) -> tuple[str, Any, float]:
    return message.kind, message.fields["request"], round(message.fields["done_at"] - message.fields["submitted_at"], 9)


async def submit(agents: Rig, request: Any, epoch: int = 1, deadline_s: float = 100.0, device: str = "d1") -> None:
    await agents.remotes[device].tell("submit", request=request, epoch=epoch, input=0, deadline_s=deadline_s)


def test_a_request_takes_its_steps_and_its_hops() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, three_way(GRAPH), 1.0)
        await asyncio.sleep(1)
        await submit(agents, 1)
        assert [end(e) for e in await agents.remotes["d1"].wait()] == [("done", 1, 3.3)]

    simulate(test, delay_s=0.1)


@pytest.mark.parametrize("cut", [(1, 1), (1, 7), (7, 7), (3, 3), (1, 4), (4, 7), (3, 5)])
def test_every_placement_ends_with_the_answer_of_the_last_layer(cut: tuple[int, int]) -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, three_way(GRAPH, 1, *cut), 0.5)
        await submit(agents, "r")
        (done,) = await agents.remotes["d1"].wait()
        assert done.kind == "done"
        assert [(p.shape, p.nbytes) for p in done.payloads] == [(GRAPH[6].output_shape, GRAPH[6].output_bytes)]

    simulate(test)


def test_a_host_is_a_single_server_first_come_first_served() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, three_way(GRAPH, 1, 7, 7), 2.0)
        for i in range(3):
            await submit(agents, i)
        assert [end(e) for e in await agents.remotes["d1"].wait(3)] == [("done", 0, 2.0), ("done", 1, 4.0), ("done", 2, 6.0)]
        queued = [r["queued_s"] for e in agents.remotes["d1"].events if e.kind == "report" for r in e.fields["records"]]
        assert queued == [0.0, 2.0, 4.0]

    simulate(test)


def test_a_smaller_cpu_share_stretches_what_is_running_and_none_stops_it() -> None:
    async def test(agents: Rig) -> None:
        d1 = agents.remotes["d1"]
        await agents.install(GRAPH, three_way(GRAPH, 1, 7, 7), 4.0)
        await submit(agents, 1)
        await asyncio.sleep(1.0)  # 3 s of work left
        await d1.tell("share", cpu_share=0.5)
        await asyncio.sleep(2.0)  # 2 s of work left
        await d1.tell("share", cpu_share=0.0)
        await asyncio.sleep(10.0)
        await d1.tell("share", cpu_share=2.0)
        assert [end(e) for e in await d1.wait()] == [("done", 1, 14.0)]

    simulate(test)


def test_tensors_leave_as_soon_as_they_exist_while_the_next_step_computes() -> None:
    """Two branches from the device: the edge computes one while the device still computes the other."""
    from d3node.graph import LayerGraph
    from d3node.plan import Plan

    base = chain(3, name="fork")
    fork = [*base.vertices, replace(base[2], index=3, name="b", inputs=(1,)), replace(base[2], index=4, name="c", inputs=(2, 3))]
    graph = LayerGraph("fork", tuple(fork), (4,))
    plan = Plan("t", "fork", ("device", "device", "device", "edge", "edge"), {"device": "d1", "edge": "e1", "cloud": "c1"}, (), 1)

    async def test(agents: Rig) -> None:
        install = timed(graph, plan, 1.0)
        assert {tier: len(times) for tier, times in install["steps_s"].items()} == {"device": 2, "edge": 2}
        await agents.install(graph, plan, 1.0)
        await submit(agents, 1)
        assert [end(e) for e in await agents.remotes["d1"].wait()] == [("done", 1, 3.0)]

    SIZES["fork"] = graph
    simulate(test)
    del SIZES["fork"]


def test_tiles_run_side_by_side_on_the_edge_hosts_and_move_exactly_their_regions() -> None:
    async def test(agents: Rig) -> None:
        plan = tiled(GRAPH, (1, 2, 3), ("e1", "e2", "e3"))
        await agents.install(GRAPH, plan, 1.0)
        await asyncio.sleep(1)
        await submit(agents, 1)
        # to the leader, out to the others, their second, back, to the cloud and its second, the answer
        assert [end(e) for e in await agents.remotes["d1"].wait()] == [("done", 1, round(5 * 0.1 + 2.0, 9))]
        for host, tile in (("e2", plan.stacks[0].tiles[1]), ("e3", plan.stacks[0].tiles[2])):
            (report,) = await agents.remotes[host].wait(1, ["report"])
            transfer, compute = report.fields["records"]
            ((rows, columns),) = reverse(GRAPH, (1, 2, 3), (tile.rows, tile.columns)).read.values()
            region = 4 * 3 * (rows[1] - rows[0]) * (columns[1] - columns[0])
            assert 0 < transfer["bytes"] - region < 200
            assert (compute["stack"], compute["start"], compute["end"]) == (0, transfer["end"], transfer["end"] + 1.0)
            assert report.fields["bytes_received"] == transfer["bytes"]

    simulate(test, ("d1", "e1", "e2", "e3", "c1"), delay_s=0.1)


def test_empty_tiles_are_nobodys_work() -> None:
    async def test(agents: Rig) -> None:
        small = chain(3, size=2, name="small")
        plan = tiled(small, (1, 2), ("e1", "e2", "e3"))
        assert sum(tile.empty for tile in plan.stacks[0].tiles) == 1
        await agents.install(small, plan, 1.0)
        await submit(agents, 1)
        assert [e.kind for e in await agents.remotes["d1"].wait()] == ["done"]

    SIZES["small"] = chain(3, size=2, name="small")
    simulate(test, ("d1", "e1", "e2", "e3", "c1"))
    del SIZES["small"]


def test_every_host_that_took_part_reports_once_and_forgets_the_request() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, tiled(GRAPH, (2, 3), ("e1", "e2"), device=2), 0.1)
        for i in range(5):
            await submit(agents, i)
        await agents.remotes["d1"].wait(5)
        await asyncio.sleep(1)
        sent = received = 0
        for remote in agents.remotes.values():
            reports = [e.fields for e in remote.events if e.kind == "report"]
            assert sorted(r["request"] for r in reports) == [0, 1, 2, 3, 4]
            sent += sum(r["bytes_sent"] for r in reports)
            received += sum(r["bytes_received"] for r in reports)
            figures = (await remote.ask("stats")).fields
            assert (figures["active"], figures["queued"], figures["parked"]) == (0, 0, 0)
        assert sent == received > 0

    simulate(test, ("d1", "e1", "e2", "c1"))


def test_a_uint8_image_is_a_quarter_of_the_bytes() -> None:
    async def test(agents: Rig) -> None:
        sizes = {}
        for epoch, encoding in enumerate(("float32", "uint8"), start=1):
            await agents.configure(input_encoding=encoding)
            await agents.install(GRAPH, three_way(GRAPH, epoch, 1, 7), 0.0)
            await submit(agents, epoch, epoch)
            await agents.remotes["d1"].wait(epoch)
            reports = await agents.remotes["e1"].wait(epoch, ["report"])
            sizes[encoding] = reports[-1].fields["records"][0]["bytes"]
        assert sizes["float32"] - sizes["uint8"] == 3 * GRAPH[0].output_bytes // 4 + 2  # and the name of the dtype

    simulate(test)


# -- epochs ------------------------------------------------------------------------------------------------------------------


def test_installing_a_new_epoch_and_retiring_the_old_one_drops_no_request() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, three_way(GRAPH, 1, 2, 4), 1.0)
        for i in range(4):
            await submit(agents, i, 1)
        await agents.install(GRAPH, three_way(GRAPH, 2, 7, 7), 0.5)
        for i in range(4, 8):
            await submit(agents, i, 2)
        for remote in agents.remotes.values():
            await remote.tell("retire", epoch=1)
        ends = await agents.remotes["d1"].wait(8)
        assert sorted(e.fields["request"] for e in ends) == list(range(8))
        assert {e.kind for e in ends} == {"done"}
        assert (await agents.remotes["d1"].ask("stats")).fields["epochs"] == [2]

    simulate(test)


def test_retired_epochs_go_everywhere_in_the_end() -> None:
    async def test(agents: Rig) -> None:
        for epoch in range(1, 4):
            await agents.install(GRAPH, three_way(GRAPH, epoch), 0.1)
            for remote in agents.remotes.values():
                await remote.tell("retire", epoch=epoch)
            await asyncio.sleep(100)
        for name, epochs in (("d1", []), ("e1", [2, 3]), ("c1", [2, 3])):
            assert (await agents.remotes[name].ask("stats")).fields["epochs"] == epochs

    simulate(test)


def test_tensors_that_come_before_their_plan_wait_for_it() -> None:
    async def test(agents: Rig) -> None:
        plan = three_way(GRAPH)
        await agents.install(GRAPH, plan, 1.0, ["d1", "c1"])
        await submit(agents, 1)
        await asyncio.sleep(4)
        assert (await agents.remotes["e1"].ask("stats")).fields["parked"] == 1
        await agents.install(GRAPH, plan, 1.0, ["e1"])
        assert [end(e) for e in await agents.remotes["d1"].wait()] == [("done", 1, 6.0)]
        assert (await agents.remotes["e1"].ask("stats")).fields["parked"] == 0

    simulate(test)


@pytest.mark.parametrize("bounds", [Bounds(park_s=3.0), Bounds(park_bytes=100)])
def test_tensors_whose_plan_never_comes_end_their_request_in_time(bounds: Bounds) -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, three_way(GRAPH), 1.0, ["d1", "c1"])
        await submit(agents, 1)
        (failed,) = await agents.remotes["d1"].wait()
        assert (failed.kind, failed.fields["error"]) == ("failed", "PlanError")
        assert failed.fields["done_at"] <= 1.0 + bounds.park_s + 0.1
        assert (await agents.remotes["e1"].ask("stats")).fields["parked"] == 0

    simulate(test, bounds=bounds)


# -- ends --------------------------------------------------------------------------------------------------------------------


def test_a_request_that_is_late_ends_at_its_deadline_and_everywhere() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, tiled(GRAPH, (1, 2, 3), ("e1", "e2")), 5.0)
        await submit(agents, 1, deadline_s=2.0)
        await submit(agents, 2, deadline_s=100.0)
        first, second = await agents.remotes["d1"].wait(2)
        assert (first.fields["error"], end(first)) == ("DeadlineExceeded", ("failed", 1, 2.0))
        assert second.kind == "done"
        await asyncio.sleep(50)
        assert len(await agents.remotes["d1"].wait(2)) == 2
        for name in agents.remotes:
            assert (await agents.remotes[name].ask("stats")).fields["active"] == 0
            reports = [e.fields["request"] for e in agents.remotes[name].events if e.kind == "report"]
            assert len(reports) == len(set(reports))

    simulate(test, ("d1", "e1", "e2", "c1"))


@pytest.mark.parametrize("victim", ["e1", "e2", "c1"])
@pytest.mark.parametrize("moment", [0.5, 1.5, 2.5])
def test_a_host_that_dies_in_the_middle_fails_its_requests_at_once_and_exactly_once(victim: str, moment: float) -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, tiled(GRAPH, (2, 3), ("e1", "e2"), device=2), 1.0)
        await submit(agents, 1)
        await asyncio.sleep(0.5)
        await submit(agents, 2)
        await asyncio.sleep(moment)
        await agents.kill(victim)
        ends = await agents.remotes["d1"].wait(2)
        assert sorted(e.fields["request"] for e in ends) == [1, 2]
        for e in ends:
            assert e.kind == "done" or (e.fields["error"] == "PeerLost" and victim in e.fields["text"])
            assert e.fields["done_at"] - e.fields["submitted_at"] < 5.0
        await submit(agents, 3)
        third = (await agents.remotes["d1"].wait(3))[2]
        assert (third.kind, third.fields["error"]) == ("failed", "PeerLost")
        await asyncio.sleep(20)
        assert len(await agents.remotes["d1"].wait(3)) == 3
        for name in set(agents.remotes) - {victim}:
            assert (await agents.remotes[name].ask("stats")).fields["active"] == 0
        await agents.install(GRAPH, three_way(GRAPH, 2, 7, 7), 1.0, ["d1"])
        await submit(agents, 4, 2)
        assert (await agents.remotes["d1"].wait(4))[3].kind == "done"

    simulate(test, ("d1", "e1", "e2", "c1"), delay_s=0.01)


def test_a_device_that_dies_leaves_nothing_behind() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, tiled(GRAPH, (2, 3), ("e1", "e2"), device=2), 1.0)
        await submit(agents, 1)
        await asyncio.sleep(1.5)
        await agents.kill("d1")
        await asyncio.sleep(0.5)
        for name in ("e1", "e2", "c1"):
            figures = (await agents.remotes[name].ask("stats")).fields
            assert figures["active"] == 0

    simulate(test, ("d1", "e1", "e2", "c1"), delay_s=0.01)


def test_what_is_held_for_ever_by_nobodys_fault_goes_too() -> None:
    """The rest of a request never comes, and no connection breaks: the host forgets it after its own bound."""

    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, three_way(GRAPH), 1.0, ["c1"])
        channel = await agents.transport.connect(agents.addresses["e1"])
        await channel.send(Message("hello", {"host": "d1"}))
        plan = tiled(GRAPH, (1, 2), ("e1", "e2"), epoch=5)
        await agents.install(GRAPH, plan, 1.0, ["e1"])
        whole = GRAPH[0]
        from d3node.channel import Payload

        tensor = Payload("float32", whole.output_shape, whole.output_bytes)
        await channel.send(Message("tensor", {"request": 1, "epoch": 5, "vertex": 0, "device": "d1"}, (tensor,)))
        await asyncio.sleep(29)
        assert (await agents.remotes["e1"].ask("stats")).fields["active"] == 1
        await asyncio.sleep(2)
        assert (await agents.remotes["e1"].ask("stats")).fields["active"] == 0

    async def main() -> None:
        bounds = Bounds(request_s=30.0, park_s=1000.0)
        names = ("d1", "e1", "e2", "c1")
        async with rig(None, SIZES, names, inline_compute=True, tensors="sizes", bounds=bounds) as agents:
            await agents.configure()
            await test(agents)

    run(VirtualLoop(), main())


# -- the rest ----------------------------------------------------------------------------------------------------------------


def test_probes_measure_the_way_there_and_back() -> None:
    async def test(agents: Rig) -> None:
        answer = await agents.remotes["d1"].ask("probe", peer="e1", size=10_000)
        answer = await agents.remotes["d1"].ask("probe", peer="e1", size=10_000)  # both connections are warm now
        assert answer.fields["rtt_s"] == pytest.approx(0.4)
        assert answer.fields["one_way_s"] == pytest.approx(0.2)
        assert 10_000 < answer.fields["bytes"] < 10_200
        ask = agents.remotes["d1"].ask
        answer = await ask("probe", peer="e1", size=10_000)
        assert answer.fields["gap_s"] == pytest.approx(0.8)  # sent when the one before it was back and reported
        _, behind = await asyncio.gather(ask("probe", peer="e1", size=10_000), ask("probe", peer="e1", size=10_000))
        assert behind.fields["gap_s"] == pytest.approx(0.0)  # came in together: it queued
        refused = await agents.remotes["d1"].ask("probe", peer="nobody", size=1)
        assert "no address of 'nobody'" in refused.fields["text"]
        await agents.kill("e1")
        late = await agents.remotes["d1"].ask("probe", peer="e1", size=1)
        assert late.fields["error"] == "DeadlineExceeded"

    simulate(test, delay_s=0.2)


def test_shutdown_is_answered_and_stops_the_agent() -> None:
    async def test(agents: Rig) -> None:
        assert (await agents.remotes["c1"].ask("shutdown")).kind == "ok"
        await agents.tasks.pop("c1")
        with pytest.raises(ChannelError):
            await agents.transport.connect(agents.addresses["c1"])

    simulate(test)


def test_an_agent_that_is_told_so_stops_with_its_orchestrator() -> None:
    async def test(agents: Rig) -> None:
        assert isinstance(agents.transport, MemoryTransport)
        await agents.remotes["e1"].close()
        await agents.tasks.pop("e1")

    simulate(test, exit_with_control=True)


def test_the_same_run_gives_the_same_messages_at_the_same_times() -> None:
    def once() -> list[Any]:
        seen: list[Any] = []

        async def test(agents: Rig) -> None:
            await agents.install(GRAPH, tiled(GRAPH, (2, 3), ("e1", "e2"), device=2), 0.3)
            for i in range(10):
                await submit(agents, i)
                await asyncio.sleep(0.1)
            await agents.remotes["d1"].wait(10)
            await asyncio.sleep(1)
            seen.extend((n, e.kind, e.fields) for n, r in agents.remotes.items() for e in r.events)

        simulate(test, ("d1", "e1", "e2", "c1"), delay_s=0.01)
        return seen

    assert once() == once()
