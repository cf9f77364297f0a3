"""How many requests of one sender a host has in hand at a time: the sender keeps the rest back, the receiver says when there is
room again.

A request is opened on a host by its first tensor from below. The one host that opens it there (`Epoch.doors`) needs room in that
host's window, and gets it back when the request's part there is over. All else goes through at once: further tensors, tiles,
halos, answers, words, control. So no connection stands still, and nothing that somebody works or waits on is kept back.
docs/wire.md ("Windows") says why no two requests can wait for one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from d3node.channel import Message
from d3node.links import Outbox, Sender
from d3node.request import Key

if TYPE_CHECKING:
    from d3node.execute import Lead

Post = Callable[[str, Message, Sender | None], None]


class _Opening:
    """The tensor that opens a request, as `d3node.links.Sender`: `left` is whether it was handed to the network."""

    __slots__ = ("_lead", "left")

    def __init__(self, lead: Lead) -> None:
        self._lead = lead
        self.left = False

    @property
    def ended(self) -> bool:
        return self._lead.ended

    def sent(self, wire_bytes: int) -> None:
        self.left = True
        self._lead.sent(wire_bytes)


class Windows:
    """The sender's side: what of this host's requests is open on hosts that have a window, and what waits for room there.

    First come, first served: a request that needs a window for which another one waits has to wait behind it. `post` sends.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self._limits: dict[str, int] = {}
        self._open: dict[str, dict[Key, _Opening | None]] = {}  # None: there is room for it, and nothing has been posted yet
        self._waiting: dict[Lead, list[tuple[str, Message]]] = {}

    def __len__(self) -> int:
        """Requests that wait for room."""
        return len(self._waiting)

    def __bool__(self) -> bool:
        """Whether any host has a window."""
        return bool(self._limits)

    def configure(self, limits: Mapping[str, int]) -> None:
        """How many requests of this host the hosts that have a window take at a time."""
        self._limits = dict(limits)
        self._open = {host: self._open.get(host, {}) for host in limits}
        self._serve()

    def post(self, host: str, message: Message, lead: Lead) -> None:
        """Send a message of a request, now or when there is room for the request wherever this host opens it."""
        upwards = message.kind == "tensor" and host not in lead.epoch.below
        if upwards and lead in self._waiting:
            self._waiting[lead].append((host, message))
        elif upwards and not lead.let_in and self._doors(lead):
            self._waiting[lead] = [(host, message)]
            self._serve()
        else:
            self._forward(host, message, lead)

    def room(self, host: str, key: Key) -> None:
        """A host is through with a request."""
        if self._open.get(host, {}).pop(key, self) is not self:
            self._serve()

    def lost(self, host: str) -> None:
        """The connection with a host has ended: nothing that was open there over it counts any more."""
        if self._open.get(host):
            self._open[host].clear()
            self._serve()

    def ended(self, lead: Lead) -> None:
        """A request is over here. What of it has left is the receiver's until that says so; the rest is dropped."""
        self._waiting.pop(lead, None)
        for host in self._doors(lead):
            opening = self._open[host].get(lead.key, self)
            if opening is None or (isinstance(opening, _Opening) and not opening.left):
                del self._open[host][lead.key]
        self._serve()

    def clear(self) -> None:
        """Forget everything; what waits is not sent."""
        self._waiting.clear()
        for known in self._open.values():
            known.clear()

    def _doors(self, lead: Lead) -> list[str]:
        return [host for host in lead.epoch.doors if host in self._limits]

    def _serve(self) -> None:
        """Let in what there is room for. A request gets all the room that it needs at once, or none."""
        short: set[str] = set()
        for lead in list(self._waiting):
            if short and len(short) >= len(self._limits):
                return
            doors = self._doors(lead)
            full = {host for host in doors if host in short or len(self._open[host]) >= self._limits[host]}
            if full:
                short.update(doors)  # nobody overtakes
            elif (messages := self._waiting.pop(lead, None)) is not None:
                lead.let_in = True
                for host in doors:
                    self._open[host][lead.key] = None
                for host, message in messages:
                    self._forward(host, message, lead)

    def _forward(self, host: str, message: Message, lead: Lead) -> None:
        sender: Sender = lead
        if message.kind == "tensor" and self._open.get(host, {}).get(lead.key, self) is None:
            sender = self._open[host][lead.key] = _Opening(lead)
            message = Message(message.kind, {**message.fields, "opens": True}, message.payloads)
        self._post(host, message, sender)


class Rooms:
    """The receiver's side: who hears when a request's part here is over."""

    def __init__(self) -> None:
        self._owed: dict[Key, dict[Outbox, None]] = {}

    def __len__(self) -> int:
        """Requests of which somebody will hear."""
        return len(self._owed)

    def opened(self, key: Key, outbox: Outbox) -> None:
        """A tensor has come that opens a request, over a connection whose other end counts it."""
        self._owed.setdefault(key, {})[outbox] = None

    def give(self, key: Key) -> None:
        """A request is over here, or was not taken on."""
        for outbox in self._owed.pop(key, ()):
            outbox.post(Message("room", {"request": key[1], "epoch": key[0]}))

    def give_all(self) -> None:
        """All requests are over here."""
        for key in list(self._owed):
            self.give(key)

    def clear(self) -> None:
        """Forget everything; nobody hears of it."""
        self._owed.clear()

    def gone(self, outbox: Outbox) -> None:
        """A connection has ended; who was at its other end counts anew."""
        for key in [key for key, owed in self._owed.items() if outbox in owed]:
            del self._owed[key][outbox]
            if not self._owed[key]:
                del self._owed[key]
