"""A reader that does not take messages: its sender must wait, and everything arrives once it does take them."""

from __future__ import annotations

import asyncio

from d3node.channel import Channel, Message
from d3node.tcp import TcpTransport

MESSAGES = 60
PATIENCE_S = 60.0


def slows_its_sender_down(server: TcpTransport, client: TcpTransport, message: Message) -> None:
    """Over loopback; the server may hold 1 MiB, and a message has 1 MB."""

    async def main() -> None:
        release = asyncio.Event()
        taken = sent = 0

        async def late(channel: Channel) -> None:
            nonlocal taken
            await release.wait()
            while True:
                await channel.receive()
                taken += 1

        async def flood(channel: Channel) -> None:
            nonlocal sent
            for _ in range(MESSAGES):
                await channel.send(message)
                sent += 1

        listener = await server.listen("127.0.0.1:0", late)
        channel = await client.connect(listener.address)
        sending = asyncio.create_task(flood(channel))
        await asyncio.sleep(0.5)
        assert sent < 40, "60 MB went out although the receiver may hold 1 MiB"
        release.set()
        async with asyncio.timeout(PATIENCE_S):
            await sending
            while taken < MESSAGES:
                await asyncio.sleep(0.01)
        await channel.close()
        await listener.close()

    asyncio.run(main())
