"""The contract of `d3node.channel`, as checks that any transport must pass.

Each takes a transport that listens, one that dials, and an address to listen on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from d3node.channel import Channel, Message, Payload, Transport, take_all
from d3node.errors import ChannelClosed, ChannelError, ProtocolError
from d3node.wire import wire_size

Check = Callable[[Transport, Transport, str], Awaitable[None]]
PATIENCE_S = 60.0
"""For what must come about, on a machine with other work."""


class Ends:
    """Both ends of a fresh connection; the server's end lives as long as `release` is not called."""

    def __init__(self) -> None:
        self.accepted: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self.released = asyncio.Event()

    async def attend(self, channel: Channel) -> None:
        self.accepted.set_result(channel)
        await self.released.wait()


async def connect(server: Transport, client: Transport, address: str) -> tuple[Channel, Channel, Callable[[], Awaitable[None]]]:
    """(client's end, server's end, clean-up)."""
    ends = Ends()
    listener = await server.listen(address, ends.attend)
    near = await client.connect(listener.address)
    far = await ends.accepted

    async def clean_up() -> None:
        near.abort()
        ends.released.set()
        await listener.close()

    return near, far, clean_up


def tensor(number: int, size: int = 3000) -> Message:
    data = bytes((number + i) % 251 for i in range(size))
    fields = {"request": number, "epoch": 1, "vertex": 2, "device": "d1"}
    return Message("tensor", fields, (Payload("uint8", (size,), size, memoryview(data)),))


async def messages_arrive_whole_and_in_order(server: Transport, client: Transport, address: str) -> None:
    near, far, clean_up = await connect(server, client, address)
    sent = [tensor(i, 1 + 7919 * i % 50_000) for i in range(20)]

    async def send_all() -> None:
        for message in sent:
            await near.send(message)

    task = asyncio.create_task(send_all())
    for message in sent:
        got = await far.receive()
        assert (got.kind, got.fields) == (message.kind, message.fields)
        (payload,), (original,) = got.payloads, message.payloads
        assert (payload.dtype, payload.shape, payload.nbytes) == (original.dtype, original.shape, original.nbytes)
        assert payload.data is not None
        assert bytes(payload.data) == bytes(original.data or b"")
        assert got.transfer is not None
        assert got.transfer.wire_bytes == wire_size(message)
        assert got.transfer.sent_at <= got.transfer.received_at <= asyncio.get_running_loop().time()
    await task
    assert near.bytes_sent == far.bytes_received == sum(wire_size(message) for message in sent)
    assert near.bytes_received == far.bytes_sent == 0
    await clean_up()


async def both_directions_work_at_once(server: Transport, client: Transport, address: str) -> None:
    near, far, clean_up = await connect(server, client, address)
    await asyncio.gather(*(end.send(tensor(i, 40_000)) for i, end in enumerate((near, far))))
    assert (await near.receive()).fields["request"] == 1
    assert (await far.receive()).fields["request"] == 0
    await clean_up()


async def close_lets_what_was_sent_arrive(server: Transport, client: Transport, address: str) -> None:
    near, far, clean_up = await connect(server, client, address)
    for i in range(5):
        await near.send(tensor(i, 20_000))
    closing = asyncio.create_task(near.close())
    assert [(await far.receive()).fields["request"] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ChannelClosed):
        await far.receive()
    with pytest.raises(ChannelClosed):
        await far.receive()
    await closing
    for end in (near, far):
        with pytest.raises(ChannelClosed):
            await end.send(tensor(9))
    with pytest.raises(ChannelClosed):
        await near.receive()
    await near.close()
    await clean_up()


async def a_reader_that_waits_hears_of_the_end(server: Transport, client: Transport, address: str) -> None:
    near, far, clean_up = await connect(server, client, address)
    waiting = asyncio.create_task(far.receive())
    await asyncio.sleep(0.05)
    near.abort()
    near.abort()
    with pytest.raises(ChannelClosed):
        await asyncio.wait_for(waiting, PATIENCE_S)
    with pytest.raises(ChannelClosed):
        await near.send(tensor(1))
    await clean_up()


async def who_takes_all_messages_has_them_before_the_end(server: Transport, client: Transport, address: str) -> None:
    near, far, clean_up = await connect(server, client, address)
    taken: list[int] = []
    taking = asyncio.create_task(take_all(far, lambda message: taken.append(message.fields["request"])))
    await asyncio.sleep(0)
    for number in range(5):
        await near.send(tensor(number))
    await near.close()
    with pytest.raises(ChannelClosed):
        await asyncio.wait_for(taking, PATIENCE_S)
    assert taken == [0, 1, 2, 3, 4]
    await clean_up()


async def who_fails_to_take_a_message_hears_of_it_and_may_go_on(server: Transport, client: Transport, address: str) -> None:
    near, far, clean_up = await connect(server, client, address)

    def refuse(message: Message) -> None:
        raise KeyError(message.fields["request"])

    for number in range(3):
        await near.send(tensor(number))
    with pytest.raises(KeyError, match="0"):
        await asyncio.wait_for(take_all(far, refuse), PATIENCE_S)

    def stop(_: Message) -> None:
        cancelled.cancel()

    cancelled = asyncio.create_task(take_all(far, stop))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(cancelled, PATIENCE_S)
    await near.send(tensor(3))
    last = await asyncio.wait_for(far.receive(), PATIENCE_S)
    while last.fields["request"] < 3:
        last = await asyncio.wait_for(far.receive(), PATIENCE_S)
    await clean_up()


async def a_writer_hears_that_the_peer_is_gone(server: Transport, client: Transport, address: str) -> None:
    near, far, clean_up = await connect(server, client, address)

    async def send_for_ever() -> None:
        while True:
            await near.send(tensor(1, 200_000))

    sending = asyncio.create_task(send_for_ever())
    await asyncio.sleep(0.05)
    far.abort()
    with pytest.raises(ChannelClosed):
        await asyncio.wait_for(sending, PATIENCE_S)
    await clean_up()


async def the_channel_is_closed_when_its_handler_returns(server: Transport, client: Transport, address: str) -> None:
    async def answer_once(channel: Channel) -> None:
        await channel.send(await channel.receive())

    listener = await server.listen(address, answer_once)
    near = await client.connect(listener.address)
    await near.send(tensor(7))
    assert (await near.receive()).fields["request"] == 7
    with pytest.raises(ChannelClosed):
        await near.receive()
    await near.close()
    await listener.close()


async def an_address_has_one_listener_and_none_after_it_closed(server: Transport, client: Transport, address: str) -> None:
    ends = Ends()
    listener = await server.listen(address, ends.attend)
    with pytest.raises(ChannelError, match="in use"):
        await server.listen(listener.address, ends.attend)
    await listener.close()
    with pytest.raises(ChannelError, match="cannot connect"):
        await client.connect(listener.address, deadline_s=2.0)


async def closing_a_listener_ends_its_connections(server: Transport, client: Transport, address: str) -> None:
    ends = Ends()
    listener = await server.listen(address, ends.attend)
    near = await client.connect(listener.address)
    await ends.accepted
    await listener.close()
    with pytest.raises(ChannelClosed):
        await asyncio.wait_for(near.receive(), PATIENCE_S)


async def a_corrupted_message_is_refused_and_nothing_behind_it_is_taken(
    server: Transport, client: Transport, address: str
) -> None:
    near, far, clean_up = await connect(server, client, address)
    await near.send(tensor(1))
    near.spoil("corrupt")
    await near.send(tensor(2))
    with contextlib.suppress(ChannelClosed):
        await near.send(tensor(3))
    assert (await asyncio.wait_for(far.receive(), PATIENCE_S)).fields["request"] == 1
    for _ in range(2):
        with pytest.raises(ProtocolError, match="checksum"):
            await asyncio.wait_for(far.receive(), PATIENCE_S)
    await far.send(tensor(4))  # last words
    assert (await asyncio.wait_for(near.receive(), PATIENCE_S)).fields["request"] == 4
    await clean_up()


async def a_message_cut_in_half_ends_the_connection_on_both_sides(server: Transport, client: Transport, address: str) -> None:
    near, far, clean_up = await connect(server, client, address)
    await near.send(tensor(1))
    assert (await asyncio.wait_for(far.receive(), PATIENCE_S)).fields["request"] == 1
    near.spoil("truncate")
    with pytest.raises(ChannelClosed):
        await near.send(tensor(2, 40_000))
    with pytest.raises(ChannelClosed):
        await near.send(tensor(3))
    with pytest.raises(ChannelClosed):
        await asyncio.wait_for(far.receive(), PATIENCE_S)
    await clean_up()


CHECKS: tuple[Check, ...] = (
    messages_arrive_whole_and_in_order,
    both_directions_work_at_once,
    close_lets_what_was_sent_arrive,
    a_reader_that_waits_hears_of_the_end,
    who_takes_all_messages_has_them_before_the_end,
    who_fails_to_take_a_message_hears_of_it_and_may_go_on,
    a_writer_hears_that_the_peer_is_gone,
    the_channel_is_closed_when_its_handler_returns,
    an_address_has_one_listener_and_none_after_it_closed,
    closing_a_listener_ends_its_connections,
    a_corrupted_message_is_refused_and_nothing_behind_it_is_taken,
    a_message_cut_in_half_ends_the_connection_on_both_sides,
)
