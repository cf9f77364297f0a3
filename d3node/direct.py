"""Between memory and a socket without copies: the kernel reads header and tensors where they lie, and fills them there.

asyncio's own transports copy whatever the kernel does not take at once, and read once per round of the loop. When there is
something to read, and what it means, stays with them and `d3node.stream`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Final

from d3node.errors import ChannelClosed

VIEWS_AT_ONCE: Final = 64
READS_AT_ONCE: Final = 16
LARGE_BYTES: Final = 1 << 17
UNSENT_BYTES: Final = 1 << 18
"""A write of LARGE_BYTES or more is over when at most this much of it still waits in the kernel for the network.

So the time at which the next message begins to be written is nearly the time at which it begins to travel. The limit is in force
only while a write waits for that: set for good, it would wake the sender for every piece that leaves.
"""
UNLIMITED: Final = (1 << 31) - 1


class DirectSocket:
    """A non-blocking stream socket beside asyncio's transport of it. One write at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self._loop = loop
        # a descriptor of its own, because asyncio reserves the transport's; both name the same connection
        self._sock: socket.socket | None = socket.socket(fileno=os.dup(descriptor))
        self._sock.setblocking(False)
        self._tcp = self._sock.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_NOTSENT_LOWAT")
        self._views: list[memoryview] = []
        self._waiter: asyncio.Future[None] | None = None

    async def write(self, views: list[memoryview]) -> None:
        """Hand all bytes of the views to the kernel, waiting where it has no room. Raises ChannelClosed when the peer is gone."""
        large = sum(len(view) for view in views) >= LARGE_BYTES
        await self.push(views)
        if large:
            await self.settle()

    async def push(self, views: list[memoryview]) -> None:
        """As `write`, and over when the kernel has the bytes, however many of them still wait there."""
        if self._sock is None:
            raise ChannelClosed("the connection is closed")
        self._views = views
        if not self._push():
            await self._writable()

    async def settle(self) -> None:
        """Wait until few of the bytes that the kernel has still wait for the network."""
        if self._tcp and self._sock is not None:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            await self._writable()
            if self._sock is not None:
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNLIMITED)

    async def _writable(self) -> None:
        """Wait until the socket takes more and nothing is left to write."""
        assert self._sock is not None
        self._waiter = self._loop.create_future()
        self._loop.add_writer(self._sock, self._ready)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._views = []
            if self._sock is not None:
                self._loop.remove_writer(self._sock)

    def read_more(self, room: memoryview) -> int:
        """Read what has come in meanwhile, a bounded number of times; returns the bytes read. asyncio finds the stream's end."""
        filled = 0
        if self._sock is not None:
            with contextlib.suppress(OSError):
                for _ in range(READS_AT_ONCE):
                    count = self._sock.recv_into(room[filled:])
                    filled += count
                    if count == 0 or filled == len(room):
                        break
        return filled

    def close(self, reason: str) -> None:
        """Give the descriptor back; a write that still waits raises ChannelClosed."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._loop.remove_writer(sock)
        sock.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ChannelClosed(reason))

    def _push(self) -> bool:
        """Write as much as goes; True when nothing is left."""
        assert self._sock is not None
        while self._views:
            try:
                sent = self._sock.sendmsg(self._views[:VIEWS_AT_ONCE])
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise ChannelClosed(f"the connection was lost: {error.strerror or error}") from error
            done = 0
            while done < len(self._views) and sent >= len(self._views[done]):
                sent -= len(self._views[done])
                done += 1
            self._views = self._views[done:]
            if sent:
                self._views[0] = self._views[0][sent:]
        return True

    def _ready(self) -> None:
        if self._waiter is None or self._waiter.done():
            return
        try:
            if self._push():
                self._waiter.set_result(None)
        except ChannelClosed as error:
            self._waiter.set_exception(error)
