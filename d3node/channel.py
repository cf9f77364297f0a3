"""The contract between the agent and any network: messages, channels, transports.

Implementations: `d3node.tcp` (real sockets) and the in-process streams of the `sim` backend. One reader and one writer
at a time per channel; `close` lets sent messages arrive, `abort` does not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol, runtime_checkable

from d3node.errors import ChannelError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Payload:
    """One tensor on the wire: dtype name ("float32"), shape, and its C-contiguous bytes.

    `data` is None only where sizes matter and no values (`tensors = "sizes"`).
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    data: memoryview | None = None


@dataclass(slots=True)
class Transfer:
    """How a received message travelled, in the receiver's event-loop seconds; `wire_bytes` is prefix + header + payload.

    `sent_at` is the sender's loop time just before the first byte was written; it is comparable where both ends share a clock.
    """

    sent_at: float
    received_at: float
    wire_bytes: int


@dataclass(slots=True)
class Message:
    """One framed message: a kind, JSON-like fields, and tensors. `transfer` is set on received messages only.

    To be treated as frozen, like `Transfer`: it is not declared so because making a frozen object takes three times as long.
    """

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    payloads: tuple[Payload, ...] = ()
    transfer: Transfer | None = None


Spoiling = Literal["corrupt", "truncate"]


@runtime_checkable
class Channel(Protocol):
    """A two-way, ordered, reliable stream of messages with one peer.

    `send` returns when the message is handed to the network in full (back-pressure applies) and raises ChannelClosed when
    the peer is gone. `receive` raises ChannelClosed at the end of the stream and ProtocolError on an illegal frame.
    """

    peer: str

    @property
    def bytes_sent(self) -> int: ...

    @property
    def bytes_received(self) -> int: ...

    async def send(self, message: Message) -> None: ...

    async def receive(self) -> Message: ...

    async def close(self) -> None: ...

    def abort(self) -> None: ...

    def spoil(self, how: Spoiling) -> None:
        """Fault injection: the next message is corrupted on its way, or cut in half and the connection aborted."""
        ...


@runtime_checkable
class PromptChannel(Channel, Protocol):
    """A channel whose writer and reader need not wait as tasks do (`sim`'s: much of a run's work would be waking them)."""

    def send_now(self, message: Message) -> bool:
        """Send a message at once; False (and nothing is sent) where that takes time or the peer is gone."""
        ...

    def start(self, message: Message, sent: Callable[[int], None]) -> bool:
        """Begin to send: `sent(bytes)` is called where `send` would have returned, unless the channel ends first, which `receive`
        tells. False (and nothing is sent) where only `send` will do, or when the peer is gone."""
        ...

    async def deliver(self, take: Callable[[Message], None]) -> NoReturn:
        """See `take_all`."""
        ...


async def take_all(channel: Channel, take: Callable[[Message], None]) -> NoReturn:
    """Call `take` with every message, in order and in the caller's context, until the channel ends; raises what `receive` raises
    then, or what `take` raises."""
    if isinstance(channel, PromptChannel):
        await channel.deliver(take)
    while True:
        take(await channel.receive())


Handler = Callable[[Channel], Awaitable[None]]


async def attend(handler: Handler, channel: Channel) -> None:
    """Hand an accepted channel to its handler, whatever becomes of it: a peer's fault is logged, and harms nobody else."""
    try:
        await handler(channel)
    except ChannelError as error:
        log.info("dropped %s: %s", channel.peer, error)
    except asyncio.CancelledError:
        channel.abort()
        raise
    except Exception:
        log.exception("the handler of %s failed", channel.peer)
    await channel.close()


class Listener(Protocol):
    """A listening endpoint; `address` is what peers connect to."""

    address: str

    async def close(self) -> None: ...


class Transport(Protocol):
    """Makes channels for one host. Addresses are opaque strings ("10.0.0.3:5700", "unix:/run/x.sock", "sim:e1")."""

    async def connect(self, address: str, *, deadline_s: float = 10.0) -> Channel: ...

    async def listen(self, address: str, handler: Handler) -> Listener: ...
