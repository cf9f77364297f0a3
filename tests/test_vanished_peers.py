"""A machine that loses its power or its network says nothing: its connections end all the same, and others take its place."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from agent_rig import SECRET
from machines import machines

from d3node.channel import Channel, Message
from d3node.errors import ChannelClosed
from d3node.tcp import KEEPALIVE_S, TcpTransport
from testbed.hosts import inventory, reach

TCP_REPAIR = 19
"""Of Linux: a socket in repair is closed without a word to its peer."""
PATIENCE_S = 60.0

needs_repair = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not Path("/proc/net/tcp").exists(), reason="needs root on Linux"
)


def socket_of(channel: Channel) -> socket.socket:
    found: socket.socket = channel._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    return found


def vanish(channel: Channel) -> None:
    """End this side of a connection as a power cut does."""
    sock = socket_of(channel)
    duplicate = socket.socket(fileno=os.dup(sock.fileno()))
    duplicate.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    channel.abort()
    duplicate.close()


@needs_repair
@pytest.mark.parametrize("keepalive_s", [3.0, None])
def test_a_peer_that_vanishes_in_silence_is_lost_where_that_is_watched(keepalive_s: float | None) -> None:
    async def main() -> None:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def listen(channel: Channel) -> None:
            try:
                while True:
                    await channel.receive()
            except ChannelClosed as error:
                if not ended.done():
                    ended.set_result(str(error))
                raise

        transport = TcpTransport(SECRET, keepalive_s=keepalive_s)
        listener = await transport.listen("127.0.0.1:0", listen)
        channel = await TcpTransport(SECRET).connect(listener.address)
        await channel.send(Message("stats", {"id": 1}))
        await asyncio.sleep(0.2)
        vanish(channel)
        if keepalive_s is None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(ended), 5.0)
        else:
            await asyncio.wait_for(ended, PATIENCE_S)
        await listener.close()

    asyncio.run(main())


@pytest.mark.long
@needs_repair
def test_an_agent_is_free_again_when_its_orchestrators_machine_is_gone(tmp_path: Path) -> None:
    async def main(file: Path) -> None:
        lab = inventory.read(file)
        first = await reach.dial(lab, reach.transport(lab), "d1")
        await first.ask("configure", peers={}, mode="measured", tensors="real")
        second = await reach.dial(lab, reach.transport(lab), "d1")
        assert (await second.ask("about")).fields["busy"]
        vanish(first._channel)
        async with asyncio.timeout(KEEPALIVE_S + PATIENCE_S):
            while (await second.ask("about")).fields["busy"]:
                await asyncio.sleep(0.5)
        await second.close()

    with machines(tmp_path / "lab", 7, hosts=("d1",)) as lab:
        asyncio.run(main(lab.inventory))


def test_control_connections_between_machines_are_watched_from_both_ends() -> None:
    async def main() -> None:
        async def wait(channel: Channel) -> None:
            await channel.receive()

        transport = TcpTransport(SECRET, keepalive_s=KEEPALIVE_S)
        listener = await transport.listen("127.0.0.1:0", wait)
        channel = await transport.connect(listener.address)
        assert socket_of(channel).getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await channel.close()
        plain = await TcpTransport(SECRET).connect(listener.address)
        assert not socket_of(plain).getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), "no packet but those of a scenario"
        await plain.close()
        await listener.close()

    asyncio.run(main())
