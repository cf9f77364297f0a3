"""`d3node.channel` over the flow network: channels between simulated hosts, and control channels that cost nothing.

Messages are not encoded: tensors and fields go by reference (nobody may change what was sent), but every message is as long as
`d3node.wire` would make it. Opening channels is `sim_transport.py`'s business, how long anything takes `flow.py`'s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from itertools import count
from typing import TYPE_CHECKING, NoReturn

from d3node.channel import Message, Payload, Spoiling, Transfer
from d3node.errors import ChannelClosed, ChannelError, NodeError, ProtocolError
from d3node.wire import PREFIX_BYTES, Limits, decode_header, decode_prefix, encode_head, wire_size
from testbed.backends.flow import FlowNetwork
from testbed.backends.flow_stream import Stream

if TYPE_CHECKING:
    from testbed.backends.sim_transport import SimListener

LINGER_S = 2.0
"""How long a closing channel waits for the peer, as on a socket (`d3node.stream`)."""
_LIMITS = Limits()


class Fabric:
    """Everything that simulated hosts share: the network, who listens where, which channels a host has, and totals.

    `strict` sends every header through the wire format and back, so that an agent sees exactly what a socket would bring.
    """

    def __init__(self, network: FlowNetwork, strict: bool = False) -> None:
        self.network = network
        self.strict = strict
        self.loop = network.loop
        self.listeners: dict[str, SimListener] = {}
        self.channels: dict[str, dict[SimChannel, None]] = {}
        self.down: set[str] = set()
        self.sent_bytes = 0
        self.received_bytes = 0
        self.dropped_bytes = 0
        self.in_flight = 0
        self.in_flight_bytes = 0
        self._ports = count(1)

    def opened(self, listener: SimListener) -> None:
        """Note a new listener. Raises ChannelError for an address in use."""
        if listener.address in self.listeners:
            raise ChannelError(f"{listener.address} is in use: stop what listens there, or choose another address")
        self.listeners[listener.address] = listener

    def pair(
        self, client: str, server: str, address: str, streams: tuple[Stream, Stream] | None, counted: bool
    ) -> tuple[SimChannel, SimChannel]:
        """The two ends of a new connection; without streams it costs nothing."""
        there, back = streams or (None, None)
        near = SimChannel(self, client, address, there, counted)
        far = SimChannel(self, server, f"sim:{client}#{next(self._ports)}", back, counted)
        near.other, far.other = far, near
        for channel in (near, far):
            self.channels.setdefault(channel.host, {})[channel] = None
        return near, far

    def take_down(self, host: str) -> None:
        """End a host's networking as if its process had died: peers see their connections lost, nobody listens any more."""
        self.down.add(host)
        for channel in list(self.channels.get(host, ())):
            channel.abort()
        for listener in [listener for listener in self.listeners.values() if listener.host == host]:
            del self.listeners[listener.address]

    def bring_up(self, host: str) -> None:
        """Let a host listen and dial again."""
        self.down.discard(host)


class SimChannel:
    """One end of a connection between simulated hosts; `send` returns when the message's last byte has left this host."""

    __slots__ = (
        "_context", "_counted", "_error", "_fabric", "_fault", "_gone", "_inbox", "_leaving", "_over", "_previous_left", "_spoil",
        "_stream", "_take", "_taking", "_waiter", "bytes_received", "bytes_sent", "host", "other", "peer",
    )  # fmt: skip

    other: SimChannel

    def __init__(self, fabric: Fabric, host: str, peer: str, stream: Stream | None, counted: bool) -> None:
        self.peer = peer
        self.host = host
        self.bytes_sent = 0
        self.bytes_received = 0
        self._fabric = fabric
        self._stream = stream
        self._counted = counted
        self._inbox: deque[Message] = deque()
        self._leaving: deque[_Flight] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[Message], None] | None = None
        self._taking = False
        self._over: asyncio.Future[NoReturn] | None = None
        self._context: Context | None = None
        self._error: ChannelError | None = None
        self._fault: ProtocolError | None = None
        self._spoil: Spoiling | None = None
        self._gone = False
        self._previous_left = 0.0

    # -- the Channel contract

    async def send(self, message: Message) -> None:
        """Hand a message to the network in full. Raises ChannelClosed when the peer is gone, ProtocolError for illegal fields."""
        if self._error is not None:
            raise ChannelClosed(str(self._error))
        size = wire_size(message) if self._counted else 0
        fabric = self._fabric
        if fabric.strict:
            message = _through_the_wire(message)
        spoil, self._spoil = self._spoil, None
        if spoil == "truncate":
            await self._cut(size // 2)
        if self._stream is None:
            self.bytes_sent += size
            fabric.sent_bytes += size
            self.other.take(message, fabric.loop.time(), size, damaged=spoil == "corrupt")
            return
        flight = _Flight(self, message, size, fabric.loop.time())
        flight.damaged = spoil == "corrupt"
        flight.gone = gone = fabric.loop.create_future()
        self._leaving.append(flight)
        self._stream.send(size, flight.left, flight.arrived)
        try:
            await gone
        except asyncio.CancelledError:
            self.abort()  # half a frame is out, as on a socket
            raise

    async def _cut(self, size: int) -> None:
        """Send so many bytes of a message and abort. Raises ChannelClosed."""
        if self._stream is not None:
            gone = self._fabric.loop.create_future()
            self._stream.send(size, lambda: _resolve(gone), _nothing)
            await gone
        self.abort()
        raise ChannelClosed(f"the connection with {self.peer} was cut in the middle of a message, as asked")

    def spoil(self, how: Spoiling) -> None:
        """Fault injection: the next message arrives damaged, or half of it is sent and the connection aborted."""
        self._spoil = how

    def send_now(self, message: Message) -> bool:
        """As `send`, where it takes no time; False (and nothing is sent) on a channel over links, or when the peer is gone."""
        if self._stream is not None or self._error is not None or self._fabric.strict or self._spoil is not None:
            return False
        size = wire_size(message) if self._counted else 0
        self.bytes_sent += size
        self._fabric.sent_bytes += size
        self.other.take(message, self._fabric.loop.time(), size)
        return True

    def start(self, message: Message, sent: Callable[[int], None]) -> bool:
        """As `send`, without waiting: `sent(bytes)` is called when the message has left, unless the channel ends first.
        False (and nothing is sent) where only `send` will do, or when the peer is gone."""
        if self._stream is None or self._error is not None or self._fabric.strict or self._spoil is not None:
            return False
        flight = _Flight(self, message, wire_size(message) if self._counted else 0, self._fabric.loop.time())
        flight.sent, flight.context = sent, copy_context()
        self._stream.send(flight.size, flight.left, flight.arrived)
        return True

    async def receive(self) -> Message:
        """Next message. Raises ChannelClosed at the end of the stream, and ProtocolError behind a damaged message."""
        while not self._inbox:
            if (end := self._end_of_messages()) is not None:
                raise end
            if self._waiter is not None or self._over is not None:
                raise RuntimeError("a channel has one reader at a time")
            self._waiter = self._fabric.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._inbox.popleft()

    async def deliver(self, take: Callable[[Message], None]) -> NoReturn:
        """Call `take` with every message, as `d3node.channel.take_all` promises; the caller sleeps until there are no more."""
        if self._waiter is not None or self._over is not None:
            raise RuntimeError("a channel has one reader at a time")
        self._take, self._context = take, copy_context()
        over = self._over = self._fabric.loop.create_future()
        self._taking = True
        self._hand_out()
        try:
            await over
        finally:
            self._take = self._over = None
        raise AssertionError("only an exception ends this")

    async def close(self) -> None:
        """Let what was sent arrive, then close; returns when the peer knows, or after a short while. What comes in is dropped."""
        if self._error is not None:
            return
        self._end(f"the connection with {self.peer} was closed on this side")
        self._inbox.clear()
        if self._stream is None:
            self.other.ended()
            return
        known = self._fabric.loop.create_future()
        timer = self._fabric.loop.call_later(LINGER_S, _resolve, known)

        def arrived() -> None:
            self.other.ended()
            _resolve(known)

        self._stream.signal(arrived)
        try:
            await known
        finally:
            if timer.when() <= self._fabric.loop.time():
                self.abort()
            timer.cancel()

    def abort(self) -> None:
        """Close at once; what has not left is lost."""
        if not self._gone:
            self._gone = True
            self._end(f"the connection with {self.peer} was aborted on this side")
            if self._stream is None:
                self.other.lost()
            else:
                self._stream.reset(self._reset_arrived)

    # -- what happens to it

    def take(self, message: Message, sent_at: float, size: int, damaged: bool = False) -> None:
        """A message arrives."""
        fabric = self._fabric
        if self._error is not None or self._fault is not None or damaged:
            fabric.dropped_bytes += size
            if damaged and self._error is None:
                self._fault = ProtocolError("a frame does not match its checksum: it was damaged on the way")
                self._wake()
            return
        self.bytes_received += size
        fabric.received_bytes += size
        transfer = Transfer(sent_at, fabric.loop.time(), size)
        self._inbox.append(Message(message.kind, message.fields, message.payloads, transfer))
        if self._over is None:
            self._wake()
        elif not self._taking:
            self._taking = True
            fabric.loop.call_soon(self._hand_out, context=self._context)

    def ended(self) -> None:
        """The peer closed its side: this one follows, once what it has queued has left."""
        if self._error is None:
            self._end(f"{self.peer} closed the connection")
            if self._stream is not None:
                self._stream.signal(_nothing)

    def lost(self) -> None:
        """The peer is gone."""
        self._gone = True
        self._end(f"the connection with {self.peer} was lost: the peer reset it")
        if self._stream is not None:
            self._stream.cancel()
            self._fabric.network.forget(self._stream)

    def _reset_arrived(self) -> None:
        assert self._stream is not None
        self._fabric.network.forget(self._stream)
        self.other.lost()

    def _end(self, text: str) -> None:
        """From now on every call raises ChannelClosed; messages that have arrived can still be taken."""
        if self._error is None:
            self._error = ChannelClosed(text)
        while self._leaving and self._gone:
            gone = self._leaving.popleft().gone
            if gone is not None and not gone.done():
                gone.set_exception(ChannelClosed(text))
        self._fabric.channels[self.host].pop(self, None)
        self._wake()

    def _wake(self) -> None:
        """Something has arrived for who waits for one message, or nothing will any more."""
        if self._over is not None:
            if not self._taking:
                self._stop_taking()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _hand_out(self) -> None:
        """Have what has arrived taken by who wants every message."""
        inbox, take, over = self._inbox, self._take, self._over
        failure: Exception | None = None
        if take is not None and over is not None:
            try:
                while inbox and not over.done():
                    take(inbox.popleft())
            except Exception as error:
                failure = error
        self._taking = False
        if failure is not None or self._error is not None or self._fault is not None:
            self._stop_taking(failure)

    def _stop_taking(self, error: Exception | None = None) -> None:
        """Tell who wants every message that there are no more, if so: for this reason or because the stream has ended."""
        error = error or self._end_of_messages()
        if error is not None and self._over is not None and not self._over.done():
            self._over.set_exception(error)

    def _end_of_messages(self) -> NodeError | None:
        """Why nothing more arrives, or None."""
        end = self._fault or self._error
        return None if end is None else type(end)(str(end))


class _Flight:
    """A message on its way. `sent_at` becomes the moment its first byte left: behind what was queued before it."""

    __slots__ = ("channel", "context", "damaged", "gone", "message", "sent", "sent_at", "size")

    def __init__(self, channel: SimChannel, message: Message, size: int, sent_at: float) -> None:
        self.channel = channel
        self.message = message
        self.size = size
        self.sent_at = sent_at
        self.gone: asyncio.Future[None] | None = None
        self.sent: Callable[[int], None] | None = None
        self.context: Context | None = None
        self.damaged = False

    def left(self) -> None:
        """The last byte has left its host."""
        channel, size = self.channel, self.size
        fabric, now = channel._fabric, channel._fabric.loop.time()
        if self.sent_at < channel._previous_left:
            self.sent_at = channel._previous_left
        channel._previous_left = now
        channel.bytes_sent += size
        fabric.sent_bytes += size
        fabric.in_flight += 1
        fabric.in_flight_bytes += size
        if self.sent is not None:
            fabric.loop.call_soon(self.sent, size, context=self.context)
        elif self.gone is not None:
            channel._leaving.popleft()
            _resolve(self.gone)

    def arrived(self) -> None:
        """It has crossed the links."""
        channel = self.channel
        channel._fabric.in_flight -= 1
        channel._fabric.in_flight_bytes -= self.size
        channel.other.take(self.message, self.sent_at, self.size, self.damaged)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _nothing() -> None:
    """Nobody waits for this packet."""


def _through_the_wire(message: Message) -> Message:
    """The message as the wire format would deliver it: tuples become lists, illegal fields raise. Tensors stay where they are."""
    head = encode_head(message, 0.0)
    lengths = decode_prefix(head[:PREFIX_BYTES], _LIMITS)
    header = decode_header(head[PREFIX_BYTES:], lengths.payload, _LIMITS)
    checksum = lengths.begin()
    checksum.add_header(head[PREFIX_BYTES:])
    for payload in message.payloads:
        if payload.data is not None:
            checksum.add(payload.data)
    checksum.hold_against(lengths, sizes=False)
    payloads = zip(header.payloads, message.payloads, strict=True)
    return Message(header.kind, header.fields, tuple(Payload(s.dtype, s.shape, s.nbytes, p.data) for s, p in payloads))
