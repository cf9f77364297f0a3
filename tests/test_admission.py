"""Limits per peer: what strangers and greedy peers may take is bounded, is refused in words, and honest peers do not notice."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest
from agent_rig import SECRET, data_of, payload
from hypothesis import given
from hypothesis import strategies as st

from d3node import auth
from d3node.admission import KNOWN_ADDRESSES, Admission, Budget, address_of
from d3node.channel import Channel, Message
from d3node.errors import AuthenticationError, ChannelClosed
from d3node.tcp import TcpTransport, split_address
from d3node.wire import Limits

LIMITS = Limits(handshake_s=60.0, stall_s=60.0)
PATIENCE_S = 60.0


def tensor(data: bytes, request: int = 1) -> Message:
    return Message("tensor", {"request": request, "epoch": 1, "vertex": 3, "device": "d1"}, (payload(data),))


async def echo(channel: Channel) -> None:
    while True:
        await channel.send(await channel.receive())


async def last_words(address: str, opening: bytes = b"") -> bytes:
    reader, writer = await asyncio.open_connection(*split_address(address))
    writer.write(opening)
    said = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    return said


# -- the rules ---------------------------------------------------------------------------------------------------------------


def test_an_address_has_so_many_connections_and_the_listener_so_many_in_all() -> None:
    admission = Admission(replace(LIMITS, connections=4, connections_per_address=2, pending_handshakes=9))
    assert [admission.enter("10.0.0.1", 0.0) for _ in range(2)] == [None, None]
    assert admission.enter("10.0.0.1", 0.0) == "your address has 2 connections already"
    assert [admission.enter(f"10.0.0.{i}", 0.0) for i in (2, 3)] == [None, None]
    assert "there are 4 connections already" in (admission.enter("10.0.0.4", 0.0) or "")
    admission.settled("10.0.0.1", proved=True)
    admission.leave("10.0.0.1")
    assert admission.enter("10.0.0.4", 0.0) is None


def test_handshakes_under_way_are_bounded_for_an_address_and_in_all() -> None:
    admission = Admission(replace(LIMITS, pending_handshakes=3, pending_per_address=2))
    assert [admission.enter("a", 0.0) for _ in range(2)] == [None, None]
    assert "of your address are waiting for their handshake" in (admission.enter("a", 0.0) or "")
    assert admission.enter("b", 0.0) is None
    assert "too many connections are waiting" in (admission.enter("c", 0.0) or "")
    admission.settled("a", proved=True)
    assert admission.enter("c", 0.0) is None


def test_addresses_that_connect_too_often_are_slowed_down() -> None:
    admission = Admission(replace(LIMITS, connects_at_once=3.0, connects_per_s=2.0))

    def connects(now: float) -> bool:
        if admission.enter("a", now) is not None:
            return False
        admission.settled("a", proved=True)
        admission.leave("a")
        return True

    assert [connects(0.0) for _ in range(4)] == [True, True, True, False]
    assert [connects(t) for t in (0.4, 0.5, 0.6, 1.0)] == [False, True, False, True]


def test_who_fails_again_and_again_stays_away_ever_longer_and_proof_clears_the_record() -> None:
    admission = Admission(replace(LIMITS, refusals=3, backoff_s=1.0, longest_backoff_s=4.0))

    def fails(now: float) -> bool:
        if admission.enter("a", now) is not None:
            return False
        admission.settled("a", proved=False)
        admission.refused("a", now)
        admission.leave("a")
        return True

    assert [fails(0.0) for _ in range(4)] == [True, True, True, False]
    assert [fails(t) for t in (0.9, 1.0, 2.9, 3.0, 6.9, 7.0, 10.9, 11.0)] == [False, True] * 4
    assert "refused 7 times in a row" in (admission.enter("a", 12.0) or "")
    assert admission.enter("b", 12.0) is None
    assert admission.enter("a", 15.0) is None
    admission.settled("a", proved=True)
    admission.leave("a")
    assert [fails(15.0) for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["proved", "refused", "gone"]), st.floats(0, 5)), max_size=60))
def test_counts_come_back_to_nothing_whatever_happens(visits: list[tuple[int, str, float]]) -> None:
    admission = Admission(replace(LIMITS, connections=3, pending_handshakes=2, pending_per_address=1, refusals=2))
    now, inside = 0.0, []
    for number, how, later in visits:
        now += later
        if admission.enter(str(number), now) is None:
            inside.append(str(number))
            admission.settled(str(number), proved=how == "proved")
            if how == "refused":
                admission.refused(str(number), now)
        assert admission.open == len(inside) <= 3
        assert admission.pending == 0
        if len(inside) == 3:
            admission.leave(inside.pop(0))
    for address in inside:
        admission.leave(address)
    assert admission.open == 0


def test_the_record_of_addresses_does_not_grow_without_end() -> None:
    admission = Admission(replace(LIMITS, connections=10))
    assert admission.enter("kept", 0.0) is None
    admission.settled("kept", proved=True)
    for number in range(3 * KNOWN_ADDRESSES):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        assert admission.enter(address, 0.0) is None
        admission.settled(address, proved=False)
        admission.refused(address, 0.0)
        admission.leave(address)
    assert len(admission._addresses) <= KNOWN_ADDRESSES
    admission.leave("kept")  # still known, because a connection was open
    assert admission.open == 0


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("10.0.0.1", 5), "10.0.0.1"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::"),
        (("2001:db8:1:2:ffff::1", 5, 0, 0), "2001:db8:1:2::"),
        (("::ffff:10.0.0.1", 5, 0, 0), "10.0.0.1"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::"),
        ("", ""),
        (None, ""),
    ],
)
def test_what_counts_as_one_address(peer: object, address: str) -> None:
    assert address_of(peer) == address


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=40))
def test_the_budget_is_kept_and_everybody_is_served_in_the_end(asks: list[tuple[int, int]]) -> None:
    budget = Budget(60)
    held: list[int] = []
    waiting: list[tuple[int, object]] = []

    def attempt(size: int) -> None:
        if budget.ask(size):
            held.append(size)
        else:
            waiting.append((size, None))
            budget.wait(lambda: retry(size))

    def retry(size: int) -> None:
        waiting.remove((size, None))
        attempt(size)

    for _, size in asks:
        attempt(size)
        assert budget.taken == sum(held) <= 60
    while held:
        budget.give(held.pop(0))
        assert budget.taken == sum(held) <= 60
    assert not waiting


# -- over sockets ------------------------------------------------------------------------------------------------------------


def test_guessers_are_refused_in_words_and_a_peer_with_the_secret_from_elsewhere_is_served() -> None:
    async def main() -> None:
        transport = TcpTransport(SECRET, limits=replace(LIMITS, refusals=3, backoff_s=30.0))
        listener = await transport.listen("0.0.0.0:0", echo)
        port = split_address(listener.address)[1]
        for _ in range(3):
            guess = auth.message(auth.HELLO, bytes(32)) + auth.message(auth.CLIENT_PROOF, bytes(32))
            assert b"does not know this run's secret" in await last_words(f"127.0.0.1:{port}", guess)
        assert b"refused 3 times in a row; come back in" in await last_words(f"127.0.0.1:{port}")
        channel = await _from("127.0.0.8", port)
        await channel.send(tensor(b"served"))
        assert data_of(await channel.receive()) == [b"served"]
        channel.abort()
        await listener.close()

    asyncio.run(main())


async def _from(source: str, port: int) -> Channel:
    from d3node.stream import TcpChannel

    loop = asyncio.get_running_loop()
    _, channel = await loop.create_connection(
        lambda: TcpChannel(auth.Handshake("client", SECRET), LIMITS, peer="server"), "127.0.0.1", port, local_addr=(source, 0)
    )
    await channel.ready
    return channel


def test_a_full_listener_says_so_and_has_room_again_when_somebody_leaves() -> None:
    async def main() -> None:
        transport = TcpTransport(SECRET, limits=replace(LIMITS, connections=2))
        listener = await transport.listen("127.0.0.1:0", echo)
        first, second = [await transport.connect(listener.address) for _ in range(2)]
        with pytest.raises(AuthenticationError, match="there are 2 connections already"):
            await transport.connect(listener.address)
        await second.send(tensor(b"still served"))
        assert data_of(await second.receive()) == [b"still served"]
        await first.close()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    third = await transport.connect(listener.address)
                    break
                except AuthenticationError:
                    await asyncio.sleep(0.01)
        third.abort()
        second.abort()
        await listener.close()

    asyncio.run(main())


def test_peers_together_take_no_more_memory_than_allowed_and_all_their_messages_arrive() -> None:
    limits = replace(LIMITS, buffered_bytes=3_000_000, all_buffered_bytes=4_000_000)
    most = 0

    async def main() -> None:
        nonlocal most
        release = asyncio.Event()
        taken: dict[int, int] = {}

        async def late(channel: Channel) -> None:
            nonlocal most
            await release.wait()
            while True:
                message = await channel.receive()
                most = max(most, transport._budget.taken)
                taken[message.fields["request"]] = taken.get(message.fields["request"], 0) + 1
                await asyncio.sleep(0)

        transport = TcpTransport(SECRET, limits=limits)
        listener = await transport.listen("127.0.0.1:0", late)
        senders = [await TcpTransport(SECRET, limits=LIMITS).connect(listener.address) for _ in range(5)]

        async def flood(number: int, channel: Channel) -> None:
            for _ in range(20):
                await channel.send(tensor(bytes(500_000), number))

        tasks = [asyncio.create_task(flood(i, channel)) for i, channel in enumerate(senders)]
        await asyncio.sleep(0.5)
        most = transport._budget.taken
        assert 0 < most <= limits.all_buffered_bytes
        release.set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*tasks)
            while sum(taken.values()) < 100:
                await asyncio.sleep(0.01)
        assert taken == dict.fromkeys(range(5), 20)
        for channel in senders:
            channel.abort()
        async with asyncio.timeout(PATIENCE_S):
            while transport._budget.taken:
                await asyncio.sleep(0.01)
        await listener.close()

    asyncio.run(main())
    assert most <= limits.all_buffered_bytes


def test_memory_of_peers_that_go_away_is_given_back() -> None:
    limits = replace(LIMITS, all_buffered_bytes=2_000_000)

    async def main() -> None:
        async def never(channel: Channel) -> None:
            await asyncio.sleep(0.2)  # and takes nothing

        transport = TcpTransport(SECRET, limits=limits)
        listener = await transport.listen("127.0.0.1:0", never)
        for _ in range(4):
            channel = await TcpTransport(SECRET, limits=LIMITS).connect(listener.address)
            with contextlib.suppress(ChannelClosed):
                for _ in range(1000):
                    await channel.send(tensor(bytes(600_000)))
            channel.abort()
        async with asyncio.timeout(PATIENCE_S):
            while transport._budget.taken:
                await asyncio.sleep(0.01)
        await listener.close()

    asyncio.run(main())


def test_a_flood_of_messages_is_read_no_faster_than_allowed_and_nothing_is_lost() -> None:
    limits = replace(LIMITS, messages_at_once=50.0, messages_per_s=500.0)

    async def main() -> None:
        transport = TcpTransport(SECRET, limits=limits)
        listener = await transport.listen("127.0.0.1:0", echo)
        greedy = await TcpTransport(SECRET, limits=LIMITS).connect(listener.address)
        honest = await TcpTransport(SECRET, limits=LIMITS).connect(listener.address)
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number in range(300):
            await greedy.send(Message("stats", {"id": number}))
        await honest.send(Message("stats", {"id": -1}))
        assert (await honest.receive()).fields["id"] == -1
        assert [(await asyncio.wait_for(greedy.receive(), PATIENCE_S)).fields["id"] for _ in range(300)] == list(range(300))
        assert loop.time() - start >= (300 - 2 * limits.messages_at_once) / limits.messages_per_s  # slowed at all
        for channel in (greedy, honest):
            await channel.close()
        await listener.close()

    asyncio.run(main())
