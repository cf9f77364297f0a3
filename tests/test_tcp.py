"""Real sockets: messages arrive whole and in order, slow readers slow senders down, bad peers harm nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from agent_rig import SECRET, data_of, payload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slow_reader import slows_its_sender_down

from d3node import wire
from d3node.auth import Handshake
from d3node.channel import Channel, Message, Payload
from d3node.errors import AuthenticationError, ChannelClosed, ChannelError, ProtocolError
from d3node.protocol import VERSION
from d3node.tcp import TcpTransport, split_address

LIMITS = wire.Limits(payload_bytes=1 << 24, buffered_bytes=1 << 20, handshake_s=60.0, stall_s=60.0, pending_handshakes=8)
PATIENCE_S = 60.0
"""For what must come about, on a machine with other work."""


def tensor(*data: bytes, request: int = 1) -> Message:
    fields = {"request": request, "epoch": 1, "vertex": 3, "device": "d1"}
    return Message("tensor", fields, tuple(payload(d) for d in data))


async def echo(channel: Channel) -> None:
    while True:
        message = await channel.receive()
        await channel.send(Message(message.kind, message.fields, message.payloads))


async def polite(channel: Channel) -> None:
    """An echo that says, as agents do, why it is the last one."""
    try:
        await echo(channel)
    except ProtocolError as error:
        await channel.send(Message("refused", {"id": 0, "error": "ProtocolError", "text": str(error)}))


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[Channel], Awaitable[None]] = echo, address: str = "127.0.0.1:0", limits: wire.Limits = LIMITS
) -> AsyncIterator[tuple[TcpTransport, str]]:
    transport = TcpTransport(SECRET, limits=limits)
    listener = await transport.listen(address, handler)
    try:
        yield transport, listener.address
    finally:
        await listener.close()


async def raw(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = split_address(address)
    return await asyncio.open_connection(host, port)


async def authenticated(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw connection behind a proper handshake: a peer that knows the secret and misbehaves afterwards."""
    reader, writer = await raw(address)
    shake = Handshake("client", SECRET)
    writer.write(shake.start())
    while not shake.done:
        writer.write(shake.feed(await reader.read(1)))
    return reader, writer


async def still_serves(transport: TcpTransport, address: str) -> None:
    channel = await transport.connect(address)
    await channel.send(tensor(b"still here"))
    assert data_of(await channel.receive()) == [b"still here"]
    await channel.close()


def test_sizes_travel_as_so_many_bytes_where_both_ends_agree_and_not_otherwise() -> None:
    sizes = (0, 1, 5000, 300_000)
    sent = Message("tensor", {"request": 1, "epoch": 1, "vertex": 3, "device": "d1"}, tuple(nothing(n) for n in sizes))

    async def main() -> None:
        only_sizes = TcpTransport(SECRET, limits=LIMITS, sizes=True)
        listener = await only_sizes.listen("127.0.0.1:0", polite)
        async with serving(polite) as (real, address):
            channel = await only_sizes.connect(listener.address)
            await channel.send(sent)
            back = await channel.receive()
            assert [(p.nbytes, p.data) for p in back.payloads] == [(n, None) for n in sizes]
            assert channel.bytes_received == channel.bytes_sent > sum(sizes)
            await channel.send(back)  # a relay hands on what it got
            assert len((await channel.receive()).payloads) == len(sizes)
            refusing = await real.connect(address)
            with pytest.raises(ProtocolError, match="sizes only"):
                await refusing.send(sent)
            for here, there, text in ((only_sizes, address, "sizes only"), (real, listener.address, "not sizes")):
                mixed = await here.connect(there)
                await mixed.send(sent if here is only_sizes else tensor(b"values"))
                last = await asyncio.wait_for(mixed.receive(), PATIENCE_S)
                assert last.kind == "refused"
                assert text in last.fields["text"]
                await mixed.close()
        await listener.close()

    asyncio.run(main())


def nothing(size: int) -> Payload:
    return Payload("uint8", (size,), size)


@pytest.mark.parametrize("unix", [True, False])
def test_tensors_of_all_sizes_come_back_unchanged_and_in_order(unix: bool, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(address=f"unix:{tmp_path}/s" if unix else "127.0.0.1:0") as (transport, address):
            channel = await transport.connect(address)
            sizes = [(), (0,), (1,), (0, 5, 0), (wire.PREFIX_BYTES,), (65_536,), (65_535, 3), (3_000_000, 1, 70_000), (1, 2)]
            sent = [tensor(*(os.urandom(n) for n in group), request=i) for i, group in enumerate(sizes)]

            async def send() -> None:
                for message in sent:
                    await channel.send(message)

            sending = asyncio.create_task(send())
            for message in sent:
                back = await channel.receive()
                assert (back.kind, back.fields) == (message.kind, message.fields)
                assert data_of(back) == data_of(message)
                assert back.transfer is not None
                assert back.transfer.wire_bytes == wire.wire_size(message)
            await sending
            assert channel.bytes_sent == channel.bytes_received == sum(wire.wire_size(m) for m in sent)
            await channel.close()

    asyncio.run(main())


def test_what_was_sent_before_close_arrives() -> None:
    async def main() -> None:
        arrived: list[int] = []
        over = asyncio.Event()

        async def take(channel: Channel) -> None:
            try:
                while True:
                    arrived.append((await channel.receive()).fields["request"])
                    await asyncio.sleep(0.001)
            except ChannelClosed:
                over.set()

        async with serving(take) as (transport, address):
            channel = await transport.connect(address)
            for i in range(30):
                await channel.send(tensor(bytes(30_000), request=i))
            await channel.close()
            async with asyncio.timeout(PATIENCE_S):
                await over.wait()
            assert arrived == list(range(30))
            with pytest.raises(ChannelClosed):
                await channel.send(tensor())
            with pytest.raises(ChannelClosed):
                await channel.receive()

    asyncio.run(main())


def test_a_reader_that_does_not_take_messages_slows_the_sender_down() -> None:
    transport = TcpTransport(SECRET, limits=LIMITS)
    slows_its_sender_down(transport, transport, tensor(bytes(1_000_000)))


def test_wrong_secrets_are_refused_on_both_sides() -> None:
    async def main() -> None:
        async with serving() as (transport, address):
            with pytest.raises(AuthenticationError, match="does not know this run's secret"):
                await TcpTransport(b"another secret").connect(address)
            await still_serves(transport, address)

    asyncio.run(main())


def test_a_peer_that_is_no_d3node_gets_a_reason_and_nobody_else_notices() -> None:
    async def main() -> None:
        async with serving() as (transport, address):
            reader, writer = await raw(address)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"what came is not its handshake" in await reader.read()
            writer.close()
            await still_serves(transport, address)

    asyncio.run(main())


def test_silent_peers_are_cut_off_and_too_many_of_them_are_turned_away() -> None:
    async def main() -> None:
        async with serving(limits=replace(LIMITS, handshake_s=2.0)) as (transport, address):
            silent = [await raw(address) for _ in range(LIMITS.pending_handshakes)]
            await asyncio.sleep(0.05)
            reader, writer = await raw(address)
            assert b"too many connections" in await asyncio.wait_for(reader.read(), PATIENCE_S)
            writer.close()
            for reader, writer in silent:
                assert b"no handshake within" in await asyncio.wait_for(reader.read(), PATIENCE_S)
                writer.close()
            await still_serves(transport, address)

    asyncio.run(main())


def test_a_peer_that_stops_in_the_middle_of_a_message_is_cut_off() -> None:
    async def main() -> None:
        errors: list[Exception] = []

        async def watch(channel: Channel) -> None:
            try:
                await echo(channel)
            except ChannelError as error:
                errors.append(error)
                raise

        async with serving(watch, limits=replace(LIMITS, stall_s=1.0)) as (transport, address):
            reader, writer = await authenticated(address)
            message = tensor(bytes(1000))
            writer.write(wire.encode_head(message, 0.0) + bytes(999))
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            assert isinstance(errors[0], ProtocolError)
            assert "in the middle of a message" in str(errors[0])
            writer.close()
            await still_serves(transport, address)

    asyncio.run(main())


def test_oversized_tensors_are_refused_before_memory_is_taken() -> None:
    async def main() -> None:
        async with serving() as (transport, address):
            reader, writer = await authenticated(address)
            writer.write(wire.PREFIX.pack(wire.MAGIC, VERSION, 0, 60, 1 << 62))
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            writer.close()
            await still_serves(transport, address)

    asyncio.run(main())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.booleans(),
    noise=st.binary(max_size=300),
    cut=st.integers(0, 200),
    flip=st.integers(0, 199),
    mutate=st.booleans(),
)
def test_fuzzed_peers_never_disturb_others(before: bool, noise: bytes, cut: int, flip: int, mutate: bool) -> None:
    """Noise before or behind the handshake, truncated frames, frames with a flipped bit; somebody else is served meanwhile."""

    async def main() -> None:
        async with serving() as (transport, address):
            good = await transport.connect(address)
            _, writer = await (raw(address) if before else authenticated(address))
            message = tensor(b"12345678")
            frame = bytearray(wire.encode_head(message, 1.0) + b"12345678")
            if mutate:
                frame[flip % len(frame)] ^= 1 << (flip % 8)
            writer.write(bytes(frame[:cut]) + noise)
            await good.send(tensor(b"served"))
            assert data_of(await good.receive()) == [b"served"]
            with contextlib.suppress(ConnectionError):
                writer.write_eof()
            writer.close()
            await good.send(tensor(b"served again"))
            assert data_of(await good.receive()) == [b"served again"]
            await good.close()

    asyncio.run(main())


def test_addresses_in_use_are_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving() as (transport, address):
            with pytest.raises(ChannelError, match=r"127\.0\.0\.1:\d+ is in use"):
                await transport.listen(address, echo)
        path = f"unix:{tmp_path}/socket"
        async with serving(address=path) as (transport, _):
            with pytest.raises(ChannelError, match="is in use"):
                await transport.listen(path, echo)
            await still_serves(transport, path)
        assert not os.path.exists(f"{tmp_path}/socket")

    asyncio.run(main())


def test_a_dead_listeners_socket_file_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{tmp_path}/socket")

    async def main() -> None:
        async with serving(address=f"unix:{tmp_path}/socket") as (transport, address):
            await still_serves(transport, address)
            assert os.stat(f"{tmp_path}/socket").st_mode & 0o777 == 0o600

    asyncio.run(main())


@pytest.mark.parametrize(
    "address", ["nowhere", "127.0.0.1:", ":80", "127.0.0.1:99999", "127.0.0.1:http", "unix:", ".x:1", "unix:/a\0b", "a\0b:1"]
)
def test_bad_addresses_are_named(address: str) -> None:
    async def main() -> None:
        with pytest.raises(ChannelError, match=r"address|path|cannot connect"):
            await TcpTransport(SECRET).connect(address)
        with pytest.raises(ChannelError, match=r"address|path|cannot listen"):
            await TcpTransport(SECRET).listen(address, echo)

    asyncio.run(main())


def test_nobody_there_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

    async def main() -> None:
        with pytest.raises(ChannelError, match=f"cannot connect to 127.0.0.1:{port}"):
            await TcpTransport(SECRET).connect(f"127.0.0.1:{port}")

    asyncio.run(main())


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            host, port = server.getsockname()
            with pytest.raises(ChannelError, match=r"did not answer within|no handshake within"):
                await TcpTransport(SECRET).connect(f"{host}:{port}", deadline_s=0.2)

    asyncio.run(main())


def test_congestion_control_is_set_or_refused_with_what_there_is() -> None:
    async def main() -> None:
        async with serving() as (_, address):
            channel = await TcpTransport(SECRET, "reno").connect(address)
            assert channel._transport is not None
            sock = channel._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            await channel.close()
            with pytest.raises(ChannelError, match=r"it offers: .*reno"):
                await TcpTransport(SECRET, "carrier-pigeon").connect(address)

    asyncio.run(main())


def test_sizes_only_cannot_go_over_a_socket() -> None:
    async def main() -> None:
        async with serving() as (transport, address):
            channel = await transport.connect(address)
            with pytest.raises(ProtocolError, match="sizes only"):
                await channel.send(Message("tensor", tensor().fields, (Payload("uint8", (3,), 3),)))
            await channel.send(tensor(b"abc"))
            assert data_of(await channel.receive()) == [b"abc"]
            await channel.close()

    asyncio.run(main())
