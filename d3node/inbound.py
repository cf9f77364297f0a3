"""The connections that peers have opened to a host: who is at the other end, and who on this host takes what they send.

Those that the host opens itself are `d3node.peers`' business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from d3node.channel import Channel, Message, take_all
from d3node.errors import ChannelError, NodeError, ProtocolError
from d3node.links import Outbox
from d3node.probes import Probes
from d3node.protocol import DATA_KINDS
from d3node.requests import Requests
from d3node.tls import ORCHESTRATOR
from d3node.weights import Weights

log = logging.getLogger("d3node.agent")


class Inbound:
    """What comes in on the data plane. `on_lost(peer, reason)` is told when a connection has ended that carried anything but
    weights."""

    def __init__(
        self, name: str, requests: Requests, weights: Weights, probes: Probes, on_lost: Callable[[str, str], None]
    ) -> None:
        self._name = name
        self._requests = requests
        self._weights = weights
        self._probes = probes
        self._on_lost = on_lost
        self._peers: dict[Channel, str] = {}
        self._backs: dict[Channel, Outbox] = {}
        self._bytes_sent = self._bytes_received = 0  # on connections that are no more

    @property
    def bytes_sent(self) -> int:
        """Bytes of frames that went back on these connections."""
        return self._bytes_sent + sum(channel.bytes_sent for channel in self._peers)

    @property
    def bytes_received(self) -> int:
        """Bytes of frames that came in."""
        return self._bytes_received + sum(channel.bytes_received for channel in self._peers)

    async def attend(self, channel: Channel) -> None:
        """Take what one peer sends, until its connection ends; then it counts as lost."""
        peer = channel.peer
        try:
            first = await channel.receive()
            if first.kind != "hello" or not isinstance(first.fields.get("host"), str):
                raise ProtocolError("a connection between agents begins with hello")
            _certified(channel, first.fields["host"])
            peer = first.fields["host"]
            self._peers[channel] = peer
            await take_all(channel, self._taker(channel, peer, first))
        except ProtocolError as error:
            log.warning("%s: refused %s: %s", self._name, peer, error)
            await _say(channel, error)
            self._gone(channel, peer, str(error))
        except (KeyError, TypeError) as error:
            log.warning("%s: %s sent a message with wrong fields: %r", self._name, peer, error)
            await _say(channel, ProtocolError(f"wrong fields: {error!r}"))
            self._gone(channel, peer, f"wrong fields: {error!r}")
        except ChannelError as error:
            self._gone(channel, peer, str(error))
        finally:
            self._bytes_received += channel.bytes_received
            self._bytes_sent += channel.bytes_sent
            self._peers.pop(channel, None)
            if (back := self._backs.pop(channel, None)) is not None:
                self._requests.rooms.gone(back)
                await back.close()

    def _taker(self, channel: Channel, peer: str, first: Message) -> Callable[[Message], None]:
        """What becomes of a peer's messages after its first. Raises ProtocolError for one that makes no sense here."""
        data, before = self._requests.data, first

        def take(message: Message) -> None:
            nonlocal before
            if message.kind in ("tensor", "tile", "tile_done", "answer"):
                if "opens" in message.fields:
                    self._opened(channel, message)
                data(peer, message)
            elif message.kind == "probe":
                self._probes.data(peer, message, before)
            elif message.kind in ("weights", "kept"):
                self._weights.data(channel, peer, message)
            elif message.kind in DATA_KINDS and message.kind not in ("hello", "refused"):
                data(peer, message)
            else:
                raise ProtocolError(f"a message of kind {message.kind!r} has no place between agents")
            before = message

        return take

    def _opened(self, channel: Channel, message: Message) -> None:
        """A tensor opens a request here: its sender hears on this connection when that is over."""
        if (back := self._backs.get(channel)) is None:
            back = self._backs[channel] = Outbox(channel, self._name)
        self._requests.rooms.opened((message.fields["epoch"], message.fields["request"]), back)

    def _gone(self, channel: Channel, peer: str, reason: str) -> None:
        if not self._weights.ended(channel) and channel in self._peers:
            self._on_lost(peer, reason)


def _certified(channel: Channel, host: str) -> None:
    """Raise ProtocolError where the peer's certificate is another host's. Without TLS every name is believed."""
    names: frozenset[str] | None = getattr(channel, "names", None)
    if ORCHESTRATOR in (getattr(channel, "roles", None) or ()):
        raise ProtocolError(f"{host[:80]!r} came with the certificate of an orchestrator, which is no host")
    if names is not None and host not in names:
        raise ProtocolError(f"{host[:80]!r} came with the certificate of {', '.join(sorted(names))}")


async def _say(channel: Channel, error: NodeError) -> None:
    """Last words before a connection is closed; whether they arrive does not matter."""
    try:
        await channel.send(Message("refused", {"id": 0, "error": type(error).__name__, "text": str(error)}))
    except ChannelError:
        log.debug("%s did not hear why it was refused", channel.peer)
