"""What every backend must do, each check written once: a coroutine that is given a started session and what it may be off by.

The session must be one of `scenario.scenario()`. Times are the event loop's, so the checks hold for any clock.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conformance.outcome import judge, outcome_of_one_request
from conformance.scenario import (
    ACCESS_BPS,
    ACCESS_S,
    BACKBONE_BPS,
    BACKBONE_S,
    CORE_BPS,
    LAN_BPS,
    LAN_S,
    MODEL,
    installed,
    plan,
)
from conformance.sessions import PATIENCE_S, Check, Tolerance, assert_takes, fleet_of, probe, refused, until, warm
from d3node.channel import Message
from d3node.errors import ChannelClosed, ChannelError
from d3node.model import ModelSpec, load_graph
from testbed.backends.base import LinkCounters, Session
from testbed.costs.network import FRAME_OVERHEAD, SEGMENT_PAYLOAD, frame_bytes
from testbed.scenario.state import LinkState

SEGMENT = SEGMENT_PAYLOAD + FRAME_OVERHEAD
SIZES = (10_000, 30_000, 100_000, 1_000_000, 10_000_000)


async def transfers_take_wire_bytes_over_rate_plus_delay(session: Session, tolerance: Tolerance) -> None:
    """From 10 kB to 10 MB over three links, and over the edge LAN. At each further hop one packet is stored and forwarded:
    the first before the slowest link, the last behind it."""
    async with fleet_of(session) as fleet:
        for source, target, before, slowest, behind, delay_s in (
            ("d1", "c1", ACCESS_BPS, BACKBONE_BPS, CORE_BPS, tolerance.delay_s(ACCESS_S + BACKBONE_S)),
            ("e1", "e2", None, LAN_BPS, LAN_BPS, tolerance.delay_s(2 * LAN_S)),
        ):
            await warm(fleet, source, target)
            for size in SIZES:
                if size * 8 / slowest > tolerance.longest_s:
                    continue
                allowed = tolerance.transfer if size >= 100_000 else tolerance.small
                off = []
                for _ in range(tolerance.attempts):
                    stalled = tolerance.stalls()
                    seconds, sent, _begun = await probe(fleet, source, target, size)
                    last = frame_bytes(sent) - (-(-sent // SEGMENT_PAYLOAD) - 1) * SEGMENT
                    hops_s = last * 8 / behind + (0.0 if before is None else SEGMENT * 8 / before)
                    expected = frame_bytes(sent) * 8 / slowest + delay_s + hops_s
                    off.append((seconds / expected - 1.0, stalled() / expected))
                    if -allowed <= off[-1][0] <= allowed + off[-1][1]:
                        break
                else:
                    raise AssertionError(f"{source} -> {target}, {sent} B: (off, stalled) as shares: {off}")


async def a_rate_change_holds_for_the_rest_of_a_message(session: Session, tolerance: Tolerance) -> None:
    """Half the rate 0.3 s after the start of a transfer of 0.84 s, then the old rate again.

    How much of the message had the old rate is what the link counted just before and just after the change.
    """
    loop = asyncio.get_running_loop()
    delay_s, share = tolerance.delay_s(ACCESS_S + BACKBONE_S), max(tolerance.transfer, 0.005)
    async with fleet_of(session) as fleet:
        await warm(fleet, "d1", "c1")
        before = await _carried(session)
        transfer = asyncio.create_task(probe(fleet, "d1", "c1", 1_000_000))
        await asyncio.sleep(0.3)
        stalled = tolerance.stalls()
        least = await _carried(session) - before
        asked = loop.time()
        await session.apply_link("backbone", "up", LinkState(BACKBONE_BPS / 2, tolerance.delay_s(BACKBONE_S)))
        in_force = loop.time()
        most = await _carried(session) - before
        assert not transfer.done()
        seconds, sent, begun = await transfer
        soonest, latest = (
            moment - begun + (frame_bytes(sent) - carried) * 8 / (BACKBONE_BPS / 2) + delay_s
            for moment, carried in ((asked, most), (in_force, least))
        )
        assert_takes(seconds, soonest, latest, share, stalled())
        await session.apply_link("backbone", "up", LinkState(BACKBONE_BPS, tolerance.delay_s(BACKBONE_S)))
        stalled = tolerance.stalls()
        seconds, sent, _ = await probe(fleet, "d1", "c1", 1_000_000)
        expected = frame_bytes(sent) * 8 / BACKBONE_BPS + delay_s
        assert_takes(seconds, expected, expected, share, stalled())


async def _carried(session: Session) -> int:
    """Bytes that the backbone has carried upwards."""
    return (await session.counters())["backbone", "up"].wire_bytes


async def an_outage_holds_a_message_back_and_loses_nothing(session: Session, tolerance: Tolerance) -> None:
    """Rate 0 for 0.5 s in the middle of a transfer."""
    loop = asyncio.get_running_loop()
    async with fleet_of(session) as fleet:
        await warm(fleet, "d1", "c1")
        stalled = tolerance.stalls()
        transfer = asyncio.create_task(probe(fleet, "d1", "c1", 500_000))
        await asyncio.sleep(0.2)
        stopping = loop.time()
        await session.apply_link("backbone", "up", LinkState(0.0, tolerance.delay_s(BACKBONE_S)))
        stopped = loop.time()
        await asyncio.sleep(0.5)
        assert not transfer.done()
        starting = loop.time()
        await session.apply_link("backbone", "up", LinkState(BACKBONE_BPS, tolerance.delay_s(BACKBONE_S)))
        started = loop.time()  # a change is in force at some moment of its call
        seconds, sent, begun = await transfer
        wire_s = frame_bytes(sent) * 8 / BACKBONE_BPS
        outage_s = started - stopping
        # A kernel's TCP probes a dead path at growing intervals: it may notice the end late, by as much as the outage lasted.
        late_s = tolerance.delay_s(ACCESS_S + BACKBONE_S) + (0.005 if tolerance.share < 0.01 else outage_s + 0.5)
        soonest = wire_s + starting - max(stopped, begun)
        assert_takes(seconds, soonest, wire_s + outage_s + late_s, tolerance.transfer, stalled())


async def a_message_sent_in_an_outage_waits_for_its_end_and_no_longer(session: Session, tolerance: Tolerance) -> None:
    """A message of a dozen packets, sent when the rate is 0 already: the link keeps them, and lets them go at once."""
    loop = asyncio.get_running_loop()
    state = LinkState(BACKBONE_BPS, tolerance.delay_s(BACKBONE_S))
    async with fleet_of(session) as fleet:
        await warm(fleet, "d1", "c1")
        await session.apply_link("backbone", "up", LinkState(0.0, state.delay_s))
        stalled = tolerance.stalls()
        message = asyncio.create_task(probe(fleet, "d1", "c1", 15_000))
        await asyncio.sleep(0.1)
        starting = loop.time()
        await session.apply_link("backbone", "up", state)
        started = loop.time()
        seconds, sent, begun = await message
        wire_s = frame_bytes(sent) * 8 / BACKBONE_BPS
        held_s = wire_s - 2 * SEGMENT * 8 / BACKBONE_BPS  # a frame may pass the closing gate
        soonest = starting - begun + held_s * (1 - tolerance.small)
        latest = started - begun + wire_s * (1 + tolerance.small) + tolerance.delay_s(ACCESS_S + BACKBONE_S) + 0.02
        assert_takes(seconds, soonest, latest, 0.0, stalled())


async def an_idle_link_lets_nothing_through_in_an_outage(session: Session, tolerance: Tolerance) -> None:
    """Not even a message of a few bytes, which fits into what a bucket keeps for bursts."""
    state = LinkState(BACKBONE_BPS, tolerance.delay_s(BACKBONE_S))
    async with fleet_of(session) as fleet:
        await warm(fleet, "d1", "c1")
        await asyncio.sleep(0.2)
        await session.apply_link("backbone", "up", LinkState(0.0, state.delay_s))
        message = asyncio.create_task(probe(fleet, "d1", "c1", 50))
        await asyncio.sleep(0.3)
        arrived = message.done()
        await session.apply_link("backbone", "up", state)
        await message
        assert not arrived


async def two_streams_share_a_link_fairly(session: Session, tolerance: Tolerance) -> None:
    """Two devices send to the cloud at once: both take twice as long as one alone."""
    async with fleet_of(session) as fleet:
        for device in ("d1", "d2"):
            await warm(fleet, device, "c1")
        stalled = tolerance.stalls()
        results = await asyncio.gather(*(probe(fleet, device, "c1", 1_000_000) for device in ("d1", "d2")))
        stalled_s = stalled()
        both_s = sum(frame_bytes(one.sent) for one in results) * 8 / BACKBONE_BPS + tolerance.delay_s(ACCESS_S + BACKBONE_S)
        apart_s = abs(results[0].begun - results[1].begun)  # for so long the first has the link to itself
        for one in results:
            assert_takes(one.seconds, both_s - apart_s, both_s, tolerance.share, stalled_s)
        whole_s = max(one.begun + one.seconds for one in results) - min(one.begun for one in results)
        assert_takes(whole_s, both_s, both_s, max(tolerance.transfer, 0.002), stalled_s)


async def counters_hold_every_byte_that_was_sent(session: Session, tolerance: Tolerance) -> None:
    """A message appears on every link of its path in full, framed; its ACKs on the way back; nothing on other links."""
    async with fleet_of(session) as fleet:
        await warm(fleet, "d1", "c1")
        await asyncio.sleep(tolerance.settle_s)
        before = await session.counters()
        sent = (await probe(fleet, "d1", "c1", 1_000_000)).sent
        await asyncio.sleep(tolerance.settle_s)
        after = await session.counters()

    def gained(link: str, direction: Any) -> LinkCounters:
        old, new = before[link, direction], after[link, direction]
        known = None if new.message_bytes is None or old.message_bytes is None else new.message_bytes - old.message_bytes
        return LinkCounters(
            new.wire_bytes - old.wire_bytes, new.packets - old.packets, new.drops - old.drops, message_bytes=known
        )

    for link in ("access-d1", "backbone", "core-c1"):
        up, down = gained(link, "up"), gained(link, "down")
        # The reply of the probe is small; it, its ACK, and a window update or two are all that may come on top.
        assert frame_bytes(sent) * 0.999 <= up.wire_bytes <= frame_bytes(sent) + 2_000, link
        assert up.packets >= sent // SEGMENT_PAYLOAD
        assert up.message_bytes is None or up.message_bytes == sent
        assert up.drops == 0
        assert 0 < down.wire_bytes <= FRAME_OVERHEAD * (up.packets + 10) + 500, link
    for link in ("access-d2", "lan-e1", "lan-e2"):
        assert gained(link, "up").wire_bytes + gained(link, "down").wire_bytes == 0, link


async def a_request_ends_in_the_whole_models_answer(session: Session, tolerance: Tolerance) -> None:
    """The tiled, distributed answer equals the whole model's; every byte sent was received; every transfer happened once."""
    judge(await outcome_of_one_request(session, tolerance))


async def a_killed_agent_fails_its_requests_by_name(session: Session, tolerance: Tolerance) -> None:
    """The host that computes a tile dies in the middle of it: the request fails, says who is gone, and does so soon."""
    graph = load_graph(ModelSpec(MODEL))
    loop = asyncio.get_running_loop()
    async with fleet_of(session) as fleet:
        hosts = ("c1", "e2", "e1", "d1")
        await fleet.call_all(hosts, "install", {host: installed(graph, plan(graph), 2.0) for host in hosts})
        await fleet.clients["d1"].send("submit", {"request": 1, "epoch": 1, "input": 3, "deadline_s": PATIENCE_S})
        await asyncio.sleep(1.0)
        stalled = tolerance.stalls()
        await session.kill("e2")
        killed = loop.time()
        pushed: list[tuple[str, Message]] = fleet.pushed  # type: ignore[attr-defined]
        await until(lambda: any(message.kind in ("done", "failed") for _, message in pushed), PATIENCE_S)
        assert loop.time() - killed < 1.0 + stalled()
        ends = [(host, message) for host, message in pushed if message.kind in ("done", "failed")]
        assert [(host, message.kind, message.fields["request"]) for host, message in ends] == [("d1", "failed", 1)]
        assert ends[0][1].fields["error"] == "PeerLost"
        assert "e2" in ends[0][1].fields["text"]
        await until(lambda: "e2" in fleet.dead, PATIENCE_S)
        # The others still serve: a plan without the dead host runs.
        healthy = plan(graph, epoch=2)
        healthy = type(healthy)(healthy.planner, healthy.model, healthy.tiers, healthy.hosts, (), 2)
        rest = ("c1", "e1", "d1")
        await fleet.call_all(rest, "install", {host: installed(graph, healthy, 0.01) for host in rest})
        pushed.clear()
        await fleet.clients["d1"].send("submit", {"request": 2, "epoch": 2, "input": 3, "deadline_s": PATIENCE_S})
        await until(lambda: any(message.kind in ("done", "failed") for _, message in pushed), PATIENCE_S)
        assert [m.kind for _, m in pushed if m.kind in ("done", "failed")] == ["done"]
    with pytest.raises(ChannelError):
        await refused(session, "e2")


async def control_channels_keep_order_and_tell_of_the_end(session: Session, tolerance: Tolerance) -> None:
    """Many calls at once are all answered, in order; after the agent's death the channel says so."""
    channel = await session.control("e1")
    for number in range(1, 51):
        await channel.send(Message("stats", {"id": number}))
    assert [(await channel.receive()).fields["id"] for _ in range(50)] == list(range(1, 51))
    waiting = asyncio.create_task(channel.receive())
    await session.kill("e1")
    with pytest.raises(ChannelClosed):
        await asyncio.wait_for(waiting, PATIENCE_S)
    await channel.close()


async def backend_trusts_an_undisturbed_session(session: Session, tolerance: Tolerance) -> None:
    """After ordinary transfers no invariant of the backend is rejected, and it describes itself."""
    async with fleet_of(session) as fleet:
        await asyncio.gather(*(probe(fleet, source, "c1", 200_000) for source in ("d1", "d2", "e2")))
        await asyncio.sleep(tolerance.settle_s)
        found = await session.invariants()
    assert found
    rejected = [f"{one.name} = {one.value}: {one.detail}" for one in found if one.level == "rejected"]
    assert not rejected, "; ".join(rejected)
    assert len({invariant.name for invariant in found}) == len(found)
    assert session.describe()


CHECKS: tuple[Check, ...] = (
    transfers_take_wire_bytes_over_rate_plus_delay,
    a_rate_change_holds_for_the_rest_of_a_message,
    an_outage_holds_a_message_back_and_loses_nothing,
    a_message_sent_in_an_outage_waits_for_its_end_and_no_longer,
    an_idle_link_lets_nothing_through_in_an_outage,
    two_streams_share_a_link_fairly,
    counters_hold_every_byte_that_was_sent,
    a_request_ends_in_the_whole_models_answer,
    a_killed_agent_fails_its_requests_by_name,
    control_channels_keep_order_and_tell_of_the_end,
    backend_trusts_an_undisturbed_session,
)
