"""What every backend must do when an agent is killed, restarted, hung or woken: checks as in `conformance.checks`.

Each leaves the session with all of its agents alive, so that several can share one.
"""

from __future__ import annotations

import asyncio

import pytest

from conformance.scenario import MODEL, installed, plan
from conformance.sessions import PATIENCE_S, Check, Tolerance, fleet_of, probe, refused, until
from d3node.channel import Channel, Message
from d3node.errors import ChannelClosed, ChannelError
from d3node.model import ModelSpec, load_graph
from testbed.backends.base import Session
from testbed.orchestrator.control import Fleet

HOSTS = ("c1", "e2", "e1", "d1")
SILENCE_S = 0.5
"""How long a hung agent is listened to."""


async def _submit(fleet: Fleet, epoch: int, seconds: float) -> None:
    """Begin a request over two tiling edge hosts, whose number is its epoch; each step and tile takes `seconds`."""
    graph = load_graph(ModelSpec(MODEL))
    planned = plan(graph, epoch=epoch)
    await fleet.call_all(HOSTS, "install", {host: installed(graph, planned, seconds) for host in HOSTS})
    await fleet.clients["d1"].send("submit", {"request": epoch, "epoch": epoch, "input": 3, "deadline_s": PATIENCE_S})


async def _end(fleet: Fleet, number: int) -> Message:
    """The one end of a request, which must be an answer."""
    pushed: list[tuple[str, Message]] = fleet.pushed  # type: ignore[attr-defined]

    def ends() -> list[Message]:
        return [m for _, m in pushed if m.kind in ("done", "failed") and m.fields["request"] == number]

    await until(lambda: bool(ends()), PATIENCE_S)
    (end,) = ends()
    assert end.kind == "done", end.fields
    return end


async def _all_asked_for(session: Session) -> None:
    """No death counts against the run."""
    (alive,) = (found for found in await session.invariants() if found.name == "agents_alive")
    assert alive.level == "ok", alive


async def a_killed_agent_is_restarted_and_serves_again(session: Session, tolerance: Tolerance) -> None:
    """On a fresh control channel and over new data connections both ways, at its old addresses. Killing it twice is once."""
    async with fleet_of(session) as fleet:
        await _submit(fleet, 101, 0.01)
        before = await _end(fleet, 101)
        for _ in range(2):
            await session.kill("e2")
        await until(lambda: "e2" in fleet.dead, PATIENCE_S)
        with pytest.raises(ChannelError):
            await refused(session, "e2")
        await session.restart("e2")
        await asyncio.sleep(tolerance.settle_s)  # peers hear of the end of their connections over the links
    async with fleet_of(session) as fleet:
        assert (await fleet.clients["e2"].call("stats")).fields["bytes_sent"] == 0
        for source, target in (("e1", "e2"), ("e2", "e1"), ("e2", "c1"), ("c1", "e2")):
            await probe(fleet, source, target, 50_000)
        await _submit(fleet, 102, 0.01)
        after = await _end(fleet, 102)
        assert not fleet.dead
    assert [bytes(payload.data or b"") for payload in after.payloads] == [
        bytes(payload.data or b"") for payload in before.payloads
    ]
    await _all_asked_for(session)


async def an_agent_that_is_busy_is_restarted_at_once(session: Session, tolerance: Tolerance) -> None:
    """Without having been killed; with connections in use, which peers see lost."""
    async with fleet_of(session) as fleet:
        await _submit(fleet, 111, 1.0)
        await asyncio.sleep(0.5)
        await session.restart("e2")
        await until(lambda: "e2" in fleet.dead, PATIENCE_S)
        await asyncio.sleep(tolerance.settle_s)
    async with fleet_of(session) as fleet:
        await _submit(fleet, 112, 0.01)
        await _end(fleet, 112)
    await _all_asked_for(session)


async def a_hung_agent_keeps_its_connections_and_goes_on_when_woken(session: Session, tolerance: Tolerance) -> None:
    """No reply on the control plane nor to a peer, and no handshake; but all of them after waking, and no channel is lost."""
    loop = asyncio.get_running_loop()
    async with fleet_of(session) as fleet:
        await probe(fleet, "d1", "e1", 1_000)
        await session.hang("e1")
        hung = loop.time()
        calls = [
            asyncio.create_task(fleet.clients["e1"].call("stats")),
            asyncio.create_task(fleet.clients["d1"].call("probe", {"peer": "e1", "size": 1_000})),
            asyncio.create_task(session.control("e1")),
        ]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.control("e1"), SILENCE_S)
        assert not any(call.done() for call in calls)
        await session.hang("e1")
        assert not fleet.dead
        await session.wake("e1")
        woken = loop.time()
        _, reply, _ = await asyncio.gather(*calls)
        assert reply.fields["rtt_s"] >= SILENCE_S, (reply.fields, woken - hung)  # type: ignore[attr-defined]
        channel = calls[2].result()
        await channel.send(Message("stats", {"id": 1}))  # type: ignore[union-attr]
        assert (await channel.receive()).fields["id"] == 1  # type: ignore[union-attr]
        await channel.close()  # type: ignore[union-attr]
        await session.wake("e1")
        await _submit(fleet, 121, 0.01)
        await _end(fleet, 121)
        assert not fleet.dead
    await _all_asked_for(session)


async def a_request_waits_for_a_hung_agent(session: Session, tolerance: Tolerance) -> None:
    """The host of a tile hangs beyond the tile's end; the request is done after waking, and no earlier."""
    loop = asyncio.get_running_loop()
    async with fleet_of(session) as fleet:
        await _submit(fleet, 131, 0.5)
        await asyncio.sleep(0.2)
        await session.hang("e2")
        await asyncio.sleep(2.0)
        woken = loop.time()
        await session.wake("e2")
        assert (await _end(fleet, 131)).fields["done_at"] > woken
    await _all_asked_for(session)


async def a_hung_agent_is_restarted(session: Session, tolerance: Tolerance) -> None:
    """Its channels end, and a fresh one serves; what was begun before does not go on."""
    async with fleet_of(session) as fleet:
        await _submit(fleet, 141, 1.0)
        await asyncio.sleep(0.5)
        await session.hang("e2")
        waiting = asyncio.create_task((await _open(session, "e1")).receive())
        await session.restart("e2")
        await until(lambda: "e2" in fleet.dead, PATIENCE_S)
        await session.hang("e1")
        await session.restart("e1")
        with pytest.raises(ChannelClosed):
            await asyncio.wait_for(waiting, PATIENCE_S)
        await asyncio.sleep(tolerance.settle_s)
    async with fleet_of(session) as fleet:
        assert (await fleet.clients["e2"].call("stats")).fields["active"] == 0
        await _submit(fleet, 142, 0.01)
        await _end(fleet, 142)
        await session.kill("e1")
        await session.hang("e1")  # nothing is there to hang, nor to wake
        await session.wake("e1")
        await until(lambda: "e1" in fleet.dead, PATIENCE_S)
        await session.restart("e1")
    await _all_asked_for(session)


async def _open(session: Session, host: str) -> Channel:
    """A channel that has been used."""
    channel = await session.control(host)
    await channel.send(Message("stats", {"id": 1}))
    await channel.receive()
    return channel


FAULT_CHECKS: tuple[Check, ...] = (
    a_killed_agent_is_restarted_and_serves_again,
    an_agent_that_is_busy_is_restarted_at_once,
    a_hung_agent_keeps_its_connections_and_goes_on_when_woken,
    a_request_waits_for_a_hung_agent,
    a_hung_agent_is_restarted,
)
