"""Transports of simulated hosts: opening channels takes the packets of TCP's and of `d3node.auth`'s handshake, three round trips.

Control transports are free. What travels on a channel is `sim_channels.py`'s business.
"""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context

from d3node.auth import HEAD, NONCE_BYTES, PROOF_BYTES
from d3node.channel import Handler, attend
from d3node.clock import OWNER
from d3node.errors import ChannelError
from testbed.backends.flow_stream import SYN_BYTES, Stream
from testbed.backends.sim_channels import Fabric, SimChannel
from testbed.costs.network import FRAME_OVERHEAD

HANDSHAKE = (
    SYN_BYTES,
    SYN_BYTES,
    FRAME_OVERHEAD + HEAD.size + NONCE_BYTES,
    FRAME_OVERHEAD + HEAD.size + NONCE_BYTES + PROOF_BYTES,
    FRAME_OVERHEAD + HEAD.size + PROOF_BYTES,
    FRAME_OVERHEAD + HEAD.size,
)
"""Frames that open a channel, by turns from client and server: SYN, SYN-ACK, hello (with the ACK), proof, proof, welcome."""
SYN_ACK, WELCOME = 1, 5


class SimTransport:
    """Makes channels for one host. `free`: control channels, which are not on the links and whose bytes are not counted.

    `context`: for what runs on that host; its handlers do.
    """

    def __init__(self, fabric: Fabric, host: str, free: bool = False) -> None:
        self._fabric = fabric
        self._host = host
        self._free = free
        self.context = copy_context()
        self.context.run(OWNER.set, host)

    async def connect(self, address: str, *, deadline_s: float = 10.0) -> SimChannel:
        """Dial an address. Raises ChannelError when nobody listens there or no answer comes in time."""
        fabric = self._fabric
        if self._host in fabric.down:
            raise ChannelError(f"cannot connect to {address}: this host is down")
        target = address.partition(":")[2]
        if self._free or target == self._host:
            await self._answer_of(address, deadline_s)
            return self._accepted(address, None)
        try:
            streams = fabric.network.connect(self._host, target)
        except KeyError:
            raise ChannelError(f"cannot connect to {address}: there is no such host") from None
        opened: asyncio.Future[SimChannel] = fabric.loop.create_future()
        made: list[SimChannel] = []
        self._shake(address, streams, opened, 0, made)
        try:
            async with asyncio.timeout(deadline_s):
                return await opened
        except BaseException as error:
            if not opened.cancel() and not opened.cancelled():
                opened.exception()  # it may go unread
            if made:  # the other side has it already, and must hear that nobody is there
                made[0].abort()
            else:
                for stream in streams:
                    stream.cancel()
                    fabric.network.forget(stream)
            if isinstance(error, TimeoutError):
                raise ChannelError(f"{address} did not answer within {deadline_s:g} s") from None
            raise

    async def listen(self, address: str, handler: Handler) -> SimListener:
        """Accept channels; `handler` runs once for each, which is closed when it returns. Raises ChannelError if in use."""
        listener = SimListener(self._fabric, self._host, address, handler, self.context)
        self._fabric.opened(listener)
        return listener

    async def _answer_of(self, address: str, deadline_s: float) -> None:
        """Wait until who listens there is not halted. Raises ChannelError after `deadline_s`."""
        fabric = self._fabric
        listener = fabric.listeners.get(address)
        if listener is None or not fabric.loop.halted(listener.host):
            return
        answered = fabric.loop.create_future()
        fabric.loop.call_soon(_answer, answered, context=listener.context)
        try:
            async with asyncio.timeout(deadline_s):
                await answered
        except TimeoutError:
            raise ChannelError(f"{address} did not answer within {deadline_s:g} s") from None

    def _shake(
        self, address: str, streams: tuple[Stream, Stream], opened: asyncio.Future[SimChannel], turn: int, made: list[SimChannel]
    ) -> None:
        """Send the next packet of the handshake; the channel is `made` with the client's proof, and `opened` with the welcome."""
        if opened.done():
            return
        if turn > SYN_ACK and (halted := self._halted(address, turn)) is not None:
            self._fabric.loop.call_soon(self._shake, address, streams, opened, turn, made, context=halted)
            return
        if turn == SYN_ACK and address not in self._fabric.listeners:
            streams[1].signal(lambda: _refuse(opened, address))
            return
        if turn == WELCOME:
            try:
                made.append(self._accepted(address, streams))
            except ChannelError as error:
                opened.set_exception(error)
                return
        if turn < len(HANDSHAKE):
            streams[turn % 2].signal(lambda: self._shake(address, streams, opened, turn + 1, made), HANDSHAKE[turn])
        else:
            opened.set_result(made[0])

    def _halted(self, address: str, turn: int) -> Context | None:
        """Where the next packet is a halted process's to send (the kernel shakes hands without it): its context."""
        listener = self._fabric.listeners.get(address)
        host, context = (self._host, self.context) if turn % 2 == 0 or listener is None else (listener.host, listener.context)
        return context if self._fabric.loop.halted(host) else None

    def _accepted(self, address: str, streams: tuple[Stream, Stream] | None) -> SimChannel:
        listener = self._fabric.listeners.get(address)
        if listener is None:
            raise _refused(address)
        near, far = self._fabric.pair(self._host, listener.host, address, streams, counted=not self._free)
        listener.accept(far)
        return near


class SimListener:
    """A listening endpoint; every accepted channel has a task that runs the handler and then closes it."""

    def __init__(self, fabric: Fabric, host: str, address: str, handler: Handler, context: Context) -> None:
        self.address = address
        self.host = host
        self._fabric = fabric
        self._handler = handler
        self.context = context
        self._tasks: dict[asyncio.Task[None], None] = {}

    def accept(self, channel: SimChannel) -> None:
        """Start the handler of a new channel."""
        task = self._fabric.loop.create_task(self._attend(channel), context=self.context.copy())
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _attend(self, channel: SimChannel) -> None:
        await attend(self._handler, channel)

    async def close(self) -> None:
        """Stop accepting and end every handler."""
        self._fabric.listeners.pop(self.address, None)
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _answer(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)


def _refused(address: str) -> ChannelError:
    return ChannelError(f"cannot connect to {address}: nobody listens there")


def _refuse(opened: asyncio.Future[SimChannel], address: str) -> None:
    if not opened.done():
        opened.set_exception(_refused(address))
