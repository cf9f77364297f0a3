"""Exits, contributing devices and fallbacks inside the agents, in virtual time with sizes only: times, messages, losses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from agent_rig import Rig, rig

from d3node.channel import Message
from d3node.clock import VirtualLoop, run
from d3node.exits import Exit
from d3node.graph import LayerGraph, Vertex
from d3node.peers import Peers
from d3node.plan import Plan
from d3node.program import lower_all

INPUTS = ((), (0,), (1,), (1,), (3,), (3,))
CHAIN = LayerGraph("chain", tuple(Vertex(v, f"v{v}", "x", INPUTS[v], (1, 10), 40) for v in range(6)), (2, 4, 5))
"""input, block, exit 0, block, exit 1, the last output."""
JOINS = ((), (0,), (0,), (1,), (2,), (3, 4), (1, 2), (6,))
VIEWS = LayerGraph("views", tuple(Vertex(v, f"v{v}", "x", JOINS[v], (1, 10), 40) for v in range(8)), (5, 7))
"""Two views with a map (1, 2) and scores (3, 4) each; scores joined (5) are exit 0, maps joined (6) lead to exit 1."""
HOSTS = {"device": "d1", "edge": "e1", "cloud": "c1"}
ALWAYS, NEVER = 1.0, 0.0


def passing(rates: tuple[float, float], **more: Any) -> Plan:
    exits = (Exit(2, "confidence", 0.9, rates[0], local=True), Exit(4, "confidence", 0.9, rates[1]), Exit(5))
    tiers = ("device", "device", "device", "edge", "edge", "cloud")
    return Plan("t", "chain", tiers, HOSTS, epoch=1, exits=exits, **more)  # type: ignore[arg-type]


def joined(rate: float, patience_s: float | None = 5.0) -> Plan:
    exits = (Exit(5, "entropy", 0.5, rate, local=True), Exit(7))
    tiers = ("device", "device", "device", "device", "device", "edge", "edge", "cloud")
    placed = ((2, "d2"), (4, "d2"))
    return Plan("t", "views", tiers, HOSTS, epoch=1, exits=exits, placed=placed, patience_s=patience_s)  # type: ignore[arg-type]


def simulate(test: Callable[[Rig], Awaitable[None]], names: tuple[str, ...] = ("d1", "e1", "c1")) -> None:
    async def main() -> None:
        graphs = {CHAIN.name: CHAIN, VIEWS.name: VIEWS}
        async with rig(None, graphs, names, 0.1, inline_compute=True, tensors="sizes") as agents:
            await agents.configure()
            await test(agents)

    run(VirtualLoop(), main())


async def install(agents: Rig, graph: LayerGraph, plan: Plan, seconds: float = 1.0) -> None:
    """Every step takes the same time, on every host."""
    programs = lower_all(graph, plan)
    steps = {p.tier if p.host in HOSTS.values() else p.host: [seconds] * len(p.steps) for p in programs}
    for program in programs:
        reply = await agents.remotes[program.host].ask("install", plan=plan.to_dict(), steps_s=steps, tiles_s=[], seed=1)
        assert reply.kind == "ok", reply
    await asyncio.sleep(1)


async def submit(agents: Rig, *devices: str, deadline_s: float = 100.0, request: int = 1) -> None:
    for device in devices:
        await agents.remotes[device].tell("submit", request=request, epoch=1, input=0, deadline_s=deadline_s)


async def ended(agents: Rig) -> Message:
    (message,) = await agents.remotes["d1"].wait()
    await asyncio.sleep(30)
    return message


def took(message: Message) -> float:
    return round(message.fields["done_at"] - message.fields["submitted_at"], 6)


def reports(agents: Rig) -> dict[str, Message]:
    return {host: e for host, remote in agents.remotes.items() for e in remote.events if e.kind == "report"}


@pytest.mark.parametrize(
    ("rates", "exit_", "seconds", "hosts"),
    [
        ((ALWAYS, NEVER), 0, 2.0, {"d1"}),
        ((NEVER, ALWAYS), 1, 4.2, {"d1", "e1"}),
        ((NEVER, NEVER), 2, 5.3, {"d1", "e1", "c1"}),
    ],
)
def test_a_request_ends_at_its_exit_and_hosts_behind_it_never_hear_of_it(
    rates: tuple[float, float], exit_: int, seconds: float, hosts: set[str]
) -> None:
    async def test(agents: Rig) -> None:
        await install(agents, CHAIN, passing(rates))
        await submit(agents, "d1")
        done = await ended(agents)
        assert (done.kind, done.fields["exit"], done.fields["fallback"], took(done)) == ("done", exit_, False, seconds)
        found = reports(agents)
        assert set(found) == hosts
        sent = sum(report.fields["bytes_sent"] for report in found.values())
        assert sent == sum(report.fields["bytes_received"] for report in found.values())

    simulate(test)


@pytest.mark.parametrize(("rate", "exit_", "seconds"), [(ALWAYS, 0, 3.2), (NEVER, 1, 5.5)])
def test_devices_keep_their_maps_until_the_joined_exit_has_decided(rate: float, exit_: int, seconds: float) -> None:
    async def test(agents: Rig) -> None:
        await install(agents, VIEWS, joined(rate))
        await submit(agents, "d1", "d2")
        done = await ended(agents)
        assert (done.kind, done.fields["exit"], done.fields["absent"], took(done)) == ("done", exit_, [], seconds)
        found = reports(agents)
        assert set(found) == ({"d1", "d2", "e1"} if exit_ == 0 else {"d1", "d2", "e1", "c1"})
        arrived = [r["vertex"] for r in found["e1"].fields["records"] if r["what"] == "transfer"]
        assert sorted(arrived) == ([3, 4] if exit_ == 0 else [1, 2, 3, 4])
        sent = sum(report.fields["bytes_sent"] for report in found.values())
        assert sent == sum(report.fields["bytes_received"] for report in found.values())

    simulate(test, ("d1", "d2", "e1", "c1"))


def test_a_device_that_does_not_answer_is_not_waited_for_beyond_the_patience() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, VIEWS, joined(NEVER))
        await agents.remotes["d2"].tell("share", cpu_share=0.0)
        await submit(agents, "d1", "d2")
        done = await ended(agents)
        assert (done.kind, done.fields["exit"], done.fields["absent"]) == ("done", 1, ["d2"])
        assert took(done) == pytest.approx(5.5 + 5.0)  # the edge would have had both at 2.1, and goes on at 7.1
        await agents.remotes["d2"].tell("share", cpu_share=1.0)  # what it sends now finds nobody, and harms nobody
        await asyncio.sleep(30)
        await submit(agents, "d1", "d2", request=2)
        second = (await agents.remotes["d1"].wait(2))[1]
        assert (second.kind, second.fields["absent"]) == ("done", [])
        await asyncio.sleep(30)
        for remote in agents.remotes.values():
            assert (await remote.ask("stats")).fields["active"] == 0

    simulate(test, ("d1", "d2", "e1", "c1"))


def test_a_device_that_dies_is_gone_on_without_at_once() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, VIEWS, joined(NEVER))
        await agents.remotes["d2"].tell("share", cpu_share=0.0)
        await submit(agents, "d1", "d2")
        await asyncio.sleep(3.0)
        await agents.kill("d2")
        done = await ended(agents)
        assert (done.kind, done.fields["absent"]) == ("done", ["d2"])
        assert 5.5 < took(done) < 5.5 + 2.0

    simulate(test, ("d1", "d2", "e1", "c1"))


def test_word_of_a_lost_host_is_passed_on_once_by_who_has_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices contribute to each other's plans: they told each other what they had been told, for ever (chaos found it)."""
    said: list[tuple[str, str, str]] = []
    post = Peers.post

    def counted(peers: Peers, host: str, message: Message, *rest: Any) -> None:
        if message.kind == "lost":
            said.append((peers._name, host, message.fields["text"]))
        post(peers, host, message, *rest)

    monkeypatch.setattr(Peers, "post", counted)

    async def test(agents: Rig) -> None:
        mine = joined(NEVER)
        theirs = replace(mine, epoch=2, hosts={**mine.hosts, "device": "d2"}, placed=((2, "d1"), (4, "d1")))
        for plan in (mine, theirs):
            programs = lower_all(VIEWS, plan)
            steps = {p.tier if p.host in plan.hosts.values() else p.host: [1.0] * len(p.steps) for p in programs}
            for program in programs:
                reply = await agents.remotes[program.host].ask("install", plan=plan.to_dict(), steps_s=steps, tiles_s=[], seed=1)
                assert reply.kind == "ok", reply
        await asyncio.sleep(1)
        await agents.kill("c1")
        await asyncio.sleep(2)
        assert {("e1", "d1"), ("e1", "d2")} <= {(source, target) for source, target, _ in said}
        assert len(set(said)) == len(said)
        assert not [text for _, _, text in said if " says: " in text]

    simulate(test, ("d1", "d2", "e1", "c1"))


def test_without_patience_a_missing_device_fails_the_request_at_its_deadline() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, VIEWS, joined(NEVER, patience_s=None))
        await submit(agents, "d1", deadline_s=15.0)  # nobody tells d2
        failed = await ended(agents)
        assert (failed.kind, failed.fields["error"]) == ("failed", "DeadlineExceeded")
        assert (await agents.remotes["e1"].ask("stats")).fields["active"] == 0

    simulate(test, ("d1", "d2", "e1", "c1"))


@pytest.mark.parametrize("how", ["stalled", "dead"])
def test_the_device_answers_by_itself_when_the_others_take_too_long_or_are_gone(how: str) -> None:
    async def test(agents: Rig) -> None:
        await install(agents, CHAIN, passing((NEVER, NEVER), fallback_s=10.0))
        await agents.remotes["e1"].tell("share", cpu_share=0.0)
        await submit(agents, "d1")
        await asyncio.sleep(4.0)
        if how == "dead":
            await agents.kill("e1")
        done = await ended(agents)
        assert (done.kind, done.fields["exit"], done.fields["fallback"]) == ("done", 0, True)
        assert took(done) == 10.0 if how == "stalled" else took(done) < 6.0
        assert (await agents.remotes["d1"].ask("stats")).fields["done"] == 1
        if how == "stalled":
            assert (await agents.remotes["e1"].ask("stats")).fields["active"] == 0  # it was told

    simulate(test)


def test_a_device_that_has_no_exit_computed_yet_falls_back_as_soon_as_it_has() -> None:
    async def test(agents: Rig) -> None:
        await install(agents, CHAIN, passing((NEVER, NEVER), fallback_s=0.5))
        await submit(agents, "d1")
        done = await ended(agents)
        assert (done.kind, done.fields["exit"], done.fields["fallback"], took(done)) == ("done", 0, True, 2.0)

    simulate(test)


def test_a_coded_tensor_is_relayed_as_it_came() -> None:
    async def test(agents: Rig) -> None:
        tiers = ("device", "device", "device", "cloud", "cloud", "cloud")
        plan = replace(passing((NEVER, NEVER), coding="int8-shuffle-deflate", coded_bytes=((1, 17),)), tiers=tiers)
        await install(agents, CHAIN, plan)
        await submit(agents, "d1")
        assert (await ended(agents)).fields["exit"] == 2
        sizes = [
            record["bytes"]
            for host in ("e1", "c1")
            for record in reports(agents)[host].fields["records"]
            if record["what"] == "transfer"
        ]
        assert len(set(sizes)) == 1
        assert len(sizes) == 2

    simulate(test)
