"""What exits, coded tensors and missing views add to a request on a host that leads a tier or contributes a view.

A `Gate` belongs to one `Lead` of a plan that has any of these, and keeps tensors and steps back until the exits before them have
let the request pass. How an exit decides is in `d3node.exits`, how tensors are coded in `d3node.codec`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from d3node import codec
from d3node.channel import Message, Payload
from d3node.errors import ProtocolError
from d3node.exits import drawn, score
from d3node.numerics import check_like
from d3node.wire import ITEM_BYTES

if TYPE_CHECKING:
    from d3node.execute import Lead

Coded = tuple[Payload, dict[str, Any]]


class Gate:
    """`passed`: exits that have let the request pass, as far as this host knows; `absent`: devices that were not waited for;
    `insurance`: number and tensor of the last exit that was decided here."""

    def __init__(self, lead: Lead) -> None:
        self._lead = lead
        self._epoch = lead.epoch
        self._plan = lead.epoch.plan
        self.passed = lead.epoch.passed
        self.stopped = False
        self.absent: set[str] = set()
        self.insurance: tuple[int, Payload] | None = None
        self._lost: set[str] = set()
        self._held: list[tuple[int, str, int, Payload]] = []
        self._arrived: set[int] = set()
        self._replaced: set[int] = set()
        self._coded: dict[int, Coded] = {}
        self._waiting: dict[int, list[str]] = {}
        self._busy = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """True when nothing is being coded or kept back."""
        return not self._busy and not self._held

    def close(self) -> None:
        """The request is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- tensors -------------------------------------------------------------------------------------------------------------

    def receive(self, peer: str, message: Message) -> None:
        """A tensor from a lower tier, coded or not. Raises ProtocolError unless it is one that this host waits for."""
        vertex, lead = message.fields["vertex"], self._lead
        if vertex in self._replaced:  # it came after all; the request has gone on without it
            lead.note_transfer(peer, message, vertex=vertex)
            return
        if vertex not in self._epoch.receives or vertex in self._arrived or len(message.payloads) != 1:
            raise ProtocolError(f"{lead.world.name} does not wait for the tensor of vertex {vertex!r}")
        payload, what = message.payloads[0], message.fields.get("codec")
        expected = self._epoch.sizes.whole[vertex]
        if what is None:
            check_like(payload, expected, f"the tensor of vertex {vertex}")
        elif not isinstance(what, dict):
            raise ProtocolError("how a tensor is coded must be told in a map")
        self._arrived.add(vertex)
        self.absent.update(str(host) for host in message.fields.get("absent", ()))
        lead.awaited -= 1
        lead.note_transfer(peer, message, vertex=vertex)
        self._watch()
        if what is None:
            lead.take(vertex, payload)
            return
        self._coded[vertex] = (payload, what)  # to be relayed as it came
        if self._epoch.numerics is None:
            lead.take(vertex, expected)
        else:
            self._aside(lambda: codec.decode(payload, what, expected), lambda whole: lead.take(vertex, whole))

    def send(self, host: str, vertex: int, payload: Payload) -> None:
        """Send a tensor to a higher tier, once the exits before it have let the request pass."""
        if self.stopped:
            return
        after = self._epoch.after.get((vertex, host), 0)
        if after > self.passed:
            self._held.append((after, host, vertex, payload))
        elif self._plan.coding == "float32":
            self._post(host, vertex, payload, {"name": "float32"})
        elif vertex in self._coded:
            self._post(host, vertex, *self._coded[vertex])
        elif self._epoch.numerics is None:
            self._coded[vertex] = self._sized(vertex, payload)
            self._post(host, vertex, *self._coded[vertex])
        elif vertex in self._waiting:
            self._waiting[vertex].append(host)
        else:
            self._waiting[vertex] = [host]
            self._aside(lambda: codec.encode(payload, self._plan.coding), lambda coded: self._post_coded(vertex, coded))

    def _post_coded(self, vertex: int, coded: Coded) -> None:
        self._coded[vertex] = coded
        for host in self._waiting.pop(vertex):
            self._post(host, vertex, *coded)

    def _post(self, host: str, vertex: int, payload: Payload, what: dict[str, Any]) -> None:
        more: dict[str, Any] = {} if what["name"] == "float32" else {"codec": what}
        if self.absent:
            more["absent"] = sorted(self.absent)
        fields = self._lead.fields(vertex=vertex, device=self._epoch.device, **more)
        self._lead.post(host, Message("tensor", fields, (payload,)))

    def _sized(self, vertex: int, payload: Payload) -> Coded:
        """Where only sizes travel: a coded tensor of the size that the plan expects."""
        known = dict(self._plan.coded_bytes).get(vertex)
        if known is None and self._plan.coding == "sign-bits" and (payload.dtype != "float32" or len(payload.shape) < 4):
            return payload, {"name": "float32"}
        size = known or codec.coded_bytes(payload.nbytes // ITEM_BYTES[payload.dtype], self._plan.coding)
        what: dict[str, Any] = {"name": self._plan.coding}
        if self._plan.coding == "int8-shuffle-deflate" and payload.dtype == "float32":
            what |= {"zero": 0.0, "step": 0.0}
        return Payload("uint8", (size,), size), what

    # -- exits ---------------------------------------------------------------------------------------------------------------

    def decide(self, vertex: int, payload: Payload) -> None:
        """An exit's class scores are there: the request ends with them, or goes on."""
        number = self._epoch.exits[vertex]
        exit_ = self._plan.exits[number]
        if self._epoch.numerics is None:
            ends = drawn(self._epoch.seed, self._lead.request, exit_)
        else:
            ends = exit_.answers(score(payload, exit_.metric))
        self.insurance = (number, payload)
        if not ends and self._lead.falls_back():
            return
        device = self._epoch.device
        for host in self._epoch.tells.get(number, ()):
            if not (ends and host == device) and host not in self._lost:
                word = Message("decided", self._lead.fields(exit=number, verdict="stop" if ends else "pass"))
                if host in self.absent:  # whether it hears of it is no reason to wait
                    self._lead.world.post(host, word)
                else:
                    self._lead.post(host, word)
        if ends:
            self._stop()
            self._lead.conclude(number, payload, sorted(self.absent))
        else:
            self._let_pass(number)

    def decided(self, peer: str, message: Message) -> None:
        """What another host has decided. Raises ProtocolError for an exit that there is not."""
        number, verdict = message.fields["exit"], message.fields["verdict"]
        if not 0 <= number < len(self._plan.exits) or verdict not in ("stop", "pass"):
            raise ProtocolError(f"exit {number!r} of {len(self._plan.exits)} cannot be decided as {verdict!r}")
        self._lead.note_transfer(peer, message, exit=number)
        if verdict == "stop":
            self._stop()
        else:
            self._let_pass(number)
        self._lead.advance()

    def _stop(self) -> None:
        """Nothing more is computed or sent; what is already on its way to this host is still taken."""
        self.stopped = True
        self._held.clear()
        self.close()
        coming = [v for v in self._epoch.receives if self._epoch.due.get(v, 0) <= self.passed and v not in self._gone]
        self._lead.stop(len(coming))

    def _let_pass(self, number: int) -> None:
        self.passed = max(self.passed, number + 1)
        held, self._held = self._held, []
        for _, host, vertex, payload in held:
            self.send(host, vertex, payload)
        self.close()
        for vertex in self._missing():
            if self._plan.host_of(vertex) in self.absent:
                self._replace(vertex)
        self._watch()

    # -- views that do not come ------------------------------------------------------------------------------------------------

    @property
    def _gone(self) -> set[int]:
        return self._arrived | self._replaced

    def _missing(self) -> list[int]:
        """Tensors of devices that could be here by now."""
        due = self._epoch.due
        open_ = sorted(v for v in self._epoch.receives - self._gone if due.get(v, 0) <= self.passed)
        return [v for v in open_ if self._plan.tiers[v] == "device"]

    def _watch(self) -> None:
        """Give the tensors that are missing some time from now on, if the plan bounds it."""
        if self._plan.patience_s is None or self.stopped or not self._missing():
            self.close()
        elif self._timer is None:
            self._timer = self._lead.world.loop.call_later(self._plan.patience_s, self._impatient)

    def _impatient(self) -> None:
        self._timer = None
        missing = self._missing()
        self.absent.update(self._plan.host_of(v) for v in missing)
        for vertex in missing:
            self._replace(vertex)

    def lose(self, host: str) -> None:
        """A device that contributes is gone: go on without its view."""
        self._lost.add(host)
        self.absent.add(host)
        for vertex in self._missing():
            if self._plan.host_of(vertex) == host:
                self._replace(vertex)

    def _replace(self, vertex: int) -> None:
        epoch, lead = self._epoch, self._lead
        self._replaced.add(vertex)
        lead.awaited -= 1
        numerics = epoch.numerics
        if numerics is None:
            lead.take(vertex, epoch.sizes.whole[vertex])
            return
        if vertex in epoch.blanks:
            lead.take(vertex, epoch.blanks[vertex])
            return

        def made(blank: Payload) -> None:
            epoch.blanks[vertex] = blank
            lead.take(vertex, blank)

        self._aside(lambda: numerics.blank(vertex), made)

    # -- work beside the queue -------------------------------------------------------------------------------------------------

    def _aside(self, run: Callable[[], Any], use: Callable[[Any], None]) -> None:
        """Do work that takes no modelled time, and go on with its result unless the request is over."""
        self._busy += 1

        def done(result: Any, error: BaseException | None) -> None:
            self._busy -= 1
            if not self._lead.ended and not self._lead.broken(error):
                use(result)
                self._lead.check_finished()

        self._lead.world.compute.offload(run, done)
