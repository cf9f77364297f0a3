"""What an agent sends: one warm connection per peer that it sends to, and the control channel back to the orchestrator.

Messages leave in the order in which they were posted. What a lost peer means for requests is the caller's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from d3node.channel import Channel, Message, PromptChannel, Spoiling, Transport
from d3node.errors import ChannelClosed, ChannelError

log = logging.getLogger("d3node.links")


class Sender(Protocol):
    """On whose behalf something is sent. What an ended sender still had in the queue is dropped."""

    @property
    def ended(self) -> bool: ...

    def sent(self, wire_bytes: int) -> None: ...


class Link:
    """The connection to one peer, dialled when first needed and again after a loss.

    `on_lost(peer, reason)` is called once per loss; everything queued is dropped then. `on_room(peer, message)`: the peer has
    room for more requests (`d3node.windows`).
    """

    def __init__(
        self,
        host: str,
        peer: str,
        address: str,
        transport: Transport,
        on_lost: Callable[[str, str], None],
        connect_s: float,
        on_room: Callable[[str, Message], None],
    ) -> None:
        self.peer = peer
        self.address = address
        self.bytes_sent = 0
        self.bytes_received = 0
        self._host = host
        self._transport = transport
        self._on_lost = on_lost
        self._connect_s = connect_s
        self._on_room = on_room
        self._queue: deque[tuple[Message, Sender | None]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._channel: Channel | None = None
        self._prompt: PromptChannel | None = None
        self._warm = False
        self._busy = False
        self._spoil: Spoiling | None = None
        self._loop = asyncio.get_running_loop()
        self._writer = self._loop.create_task(self._write(), name=f"{host}: to {peer}")
        self._watcher: asyncio.Task[None] | None = None

    def post(self, message: Message, sender: Sender | None = None) -> None:
        """Queue a message; the sender hears of it once it is handed to the network."""
        self._queue.append((message, sender))
        self._go_on()

    def spoil(self, how: Spoiling) -> None:
        """Fault injection: the next message on this link is corrupted, or half of it is sent and the connection aborted."""
        self._spoil = how

    def warm(self) -> None:
        """Dial now, so that the first message does not have to wait for it."""
        if self._channel is None and not self._warm:
            self._warm = True
            self._go_on()

    def close(self) -> None:
        """Stop sending; what is queued is dropped."""
        self._writer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._channel is not None:
            self._channel.abort()
        self._queue.clear()

    def _go_on(self) -> None:
        """Send what is first in the queue where that takes no task, else let the writer do it."""
        queue, channel = self._queue, self._prompt
        while channel is not None and self._spoil is None and queue and not self._busy:
            message, sender = queue[0]
            if sender is None or not sender.ended:
                self._busy = channel.start(message, partial(self._sent, sender))
                if not self._busy:
                    break
            queue.popleft()
        if (queue or self._warm) and not self._busy and self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _sent(self, sender: Sender | None, size: int) -> None:
        self._busy = False
        self.bytes_sent += size
        if sender is not None:
            sender.sent(size)
        if self._queue or self._warm:
            self._go_on()

    async def _write(self) -> None:
        queue = self._queue
        while True:
            if self._busy or not (queue or self._warm):
                self._wake = self._loop.create_future()
                await self._wake
                self._wake = None
            channel = self._channel
            try:
                if channel is None:
                    channel = await self._open()
                while queue and self._channel is channel and not self._busy:
                    message, sender = queue.popleft()
                    if sender is not None and sender.ended:
                        continue
                    if self._spoil is not None:
                        channel.spoil(self._spoil)
                        self._spoil = None
                    before = channel.bytes_sent
                    self._busy = True
                    await channel.send(message)
                    self._busy = False
                    size = channel.bytes_sent - before
                    self.bytes_sent += size
                    if sender is not None:
                        sender.sent(size)
            except ChannelError as error:
                self._busy = False
                self._lose(channel, str(error))

    async def _open(self) -> Channel:
        self._warm = False
        channel = await self._transport.connect(self.address, deadline_s=self._connect_s)
        self._channel = channel
        await channel.send(Message("hello", {"host": self._host}))
        self.bytes_sent += channel.bytes_sent
        self._prompt = channel if isinstance(channel, PromptChannel) else None
        self._watcher = self._loop.create_task(self._watch(channel), name=f"{self._host}: watching {self.peer}")
        return channel

    async def _watch(self, channel: Channel) -> None:
        """The peer says nothing on this connection but that there is room, and its last words; its end is the news."""
        before = 0
        try:
            while True:
                message = await channel.receive()
                self.bytes_received += channel.bytes_received - before
                before = channel.bytes_received
                if message.kind == "room":
                    self._on_room(self.peer, message)
                elif message.kind == "refused":
                    self._lose(channel, f"{self.peer} refused: {message.fields['text']}")
                    return
        except ChannelError as error:
            self._lose(channel, str(error))

    def _lose(self, channel: Channel | None, reason: str) -> None:
        if channel is not self._channel:
            return
        self._channel = self._prompt = None
        self._warm = self._busy = False
        self._queue.clear()
        if channel is not None:
            channel.abort()
            if self._watcher is not None and self._watcher is not asyncio.current_task():
                self._watcher.cancel()
            self._watcher = None
        log.info("%s: lost %s: %s", self._host, self.peer, reason)
        self._on_lost(self.peer, reason)


class Outbox:
    """Posts messages on a channel that somebody else opened (the control channel)."""

    def __init__(self, channel: Channel, name: str) -> None:
        self.channel = channel
        self.open = True
        self._prompt = channel if isinstance(channel, PromptChannel) else None
        self._queue: deque[Message] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._busy = False
        self._empty: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._writer = self._loop.create_task(self._write(), name=f"{name}: control")

    def post(self, message: Message) -> None:
        """Queue a message; dropped when the channel is gone."""
        if self.open and not (self._prompt is not None and not self._queue and self._prompt.send_now(message)):
            self._queue.append(message)
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)

    async def flush(self) -> None:
        """Wait until everything posted so far is handed to the network, or the channel is gone."""
        while self.open and (self._queue or self._busy):
            self._empty = self._loop.create_future()
            await self._empty

    async def close(self) -> None:
        """Stop sending."""
        self._end()
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer

    def _end(self) -> None:
        self.open = False
        self._queue.clear()
        self._settle()

    def _settle(self) -> None:
        if self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    async def _write(self) -> None:
        try:
            while self.open:
                if not self._queue:
                    self._busy = False
                    self._settle()
                    self._wake = self._loop.create_future()
                    await self._wake
                    self._wake = None
                self._busy = True
                while self._queue:
                    await self.channel.send(self._queue.popleft())
        except ChannelClosed:
            pass
        except ChannelError as error:
            log.warning("control channel of %s: %s", self.channel.peer, error)
        finally:
            self._end()
