"""Whom an agent can reach, and its connections to them: one for each peer that it sends to, dialled when first needed.

A connection's own life is in `d3node.links`; what a lost peer means is the agent's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from d3node.channel import Message, Spoiling, Transport
from d3node.errors import PlanError, ProtocolError
from d3node.links import Link, Sender

Lost = Callable[[str, str], None]
OnRoom = Callable[[str, Message], None]


class Peers:
    """The peers of one agent. `on_lost(peer, reason)` is called once for each connection that ends or cannot be made,
    `on_room(peer, message)` when a peer has room for more requests."""

    def __init__(self, name: str, transport: Transport, on_lost: Lost, connect_s: float, on_room: OnRoom) -> None:
        self._name = name
        self._transport = transport
        self._on_lost = on_lost
        self._connect_s = connect_s
        self._on_room = on_room
        self._addresses: dict[str, str] = {}
        self._links: dict[str, Link] = {}
        self._bytes_sent = self._bytes_received = 0  # of connections that are no more

    def __contains__(self, host: object) -> bool:
        return host in self._addresses

    @property
    def bytes_sent(self) -> int:
        """Bytes of frames to all peers since the start."""
        return self._bytes_sent + sum(link.bytes_sent for link in self._links.values())

    @property
    def bytes_received(self) -> int:
        """Bytes of frames that came back on these connections."""
        return self._bytes_received + sum(link.bytes_received for link in self._links.values())

    def configure(self, addresses: Mapping[str, str]) -> None:
        """Take the addresses of all peers; a peer that has moved is dialled again."""
        for peer, address in addresses.items():
            if self._addresses.get(peer, address) != address and peer in self._links:
                self._close(peer)
        self._addresses = {str(peer): str(address) for peer, address in addresses.items()}

    def dial(self, host: str, on_lost: Lost | None = None) -> Link:
        """A connection of its own to a peer, whose end `on_lost` is told of. Raises PlanError."""
        address = self._addresses.get(host)
        if address is None:
            raise PlanError(f"{self._name} was given no address of {host}")
        return Link(self._name, host, address, self._transport, on_lost or self._on_lost, self._connect_s, self._on_room)

    def post(self, host: str, message: Message, sender: Sender | None = None) -> None:
        """Send a message on the peer's connection; a peer without an address is as good as lost."""
        link = self._links.get(host)
        if link is None:
            if host not in self._addresses:
                # told later: the request that posts this is in the middle of a step
                text = f"{self._name} was given no address of {host}"
                asyncio.get_running_loop().call_soon(self._on_lost, host, text)
                return
            link = self._links[host] = self.dial(host)
        link.post(message, sender)

    def warm(self, hosts: Iterable[str]) -> None:
        """Dial peers now, so that the first message does not have to wait for it."""
        for host in hosts:
            if host not in self._links and host in self._addresses:
                self._links[host] = self.dial(host)
                self._links[host].warm()

    def spoil(self, host: str, how: str) -> None:
        """Fault injection: spoil the next frame to a peer. Raises ProtocolError."""
        if how not in get_args(Spoiling):
            raise ProtocolError(f"spoil: {how!r} is not one of {', '.join(get_args(Spoiling))}")
        if host not in self._addresses:
            raise ProtocolError(f"spoil: {self._name} was given no address of {host!r}")
        if host not in self._links:
            self._links[host] = self.dial(host)
        self._links[host].spoil(how)  # type: ignore[arg-type]

    def hang_up(self) -> None:
        """Close all connections; what is queued is dropped. They are dialled again when needed."""
        for peer in list(self._links):
            self._close(peer)

    def _close(self, peer: str) -> None:
        link = self._links.pop(peer)
        self._bytes_sent += link.bytes_sent
        self._bytes_received += link.bytes_received
        link.close()
