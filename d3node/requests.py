"""All requests that a host knows of: from messages to `Lead`, `Origin` and `Hand`, and from their ends to reports and failures.

Also what outlives a request: installed epochs, and the memory of what has been cancelled. What happens inside a request is in
`d3node.request` and its kin, how one goes on without a host that is lost in `d3node.recovery`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from d3node.bounds import Bounds, RequestTotals
from d3node.channel import Message, Payload
from d3node.compute import ComputeQueue
from d3node.errors import DeadlineExceeded, NodeError, Overloaded, PeerLost, PlanError, ProtocolError
from d3node.execute import Lead
from d3node.graph import INPUT
from d3node.hand import Hand
from d3node.install import Epoch
from d3node.kept import Kept
from d3node.links import Sender
from d3node.origin import Origin
from d3node.parking import Parking
from d3node.recovery import Recovery
from d3node.request import Key, Request
from d3node.stealing import Thief
from d3node.windows import Rooms, Windows

log = logging.getLogger("d3node.requests")
Post = Callable[[str, Message, Sender | None], None]


class Requests:
    """The `World` of the requests of one host."""

    def __init__(
        self, name: str, compute: ComputeQueue, post: Post, emit: Callable[[Message], None], bounds: Bounds | None = None
    ) -> None:
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.compute = compute
        self.modelled = True
        self.recovery = False
        self.totals = RequestTotals()
        self.epochs: dict[int, Epoch] = {}
        self._post = post
        self._emit = emit
        self._bounds = bounds or Bounds()
        self.most = self._bounds.requests
        self.leads: dict[Key, Lead] = {}
        self.hands: dict[Key, Hand] = {}
        self._cancelled: dict[Key, None] = {}
        self._retired_at: dict[int, float] = {}  # in the order of retirement
        self._retired_own: dict[int, float] = {}  # of plans for this device
        self._parking = Parking(name, self.loop, self._bounds, self._turn_away)
        self._images: dict[tuple[str, str, int], Payload] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self.thief = Thief(compute)
        self.kept = Kept(self.loop, self._bounds)
        self.going_on = Recovery(self)
        self.windows = Windows(post)
        self.rooms = Rooms()

    # -- what the orchestrator asks for --------------------------------------------------------------------------------------

    def install(self, epoch: Epoch) -> None:
        """Take a plan into use; requests that already wait for it begin. Raises PlanError when the epoch is taken by another."""
        known = self.epochs.get(epoch.number)
        if known is not None:
            if known.plan != epoch.plan:
                raise PlanError(f"epoch {epoch.number} is already installed on {self.name} with another plan")
            return
        self._purge()
        self.epochs[epoch.number] = epoch
        for peer, message in self._parking.take(epoch.number):
            try:
                self.data(peer, message)
            except ProtocolError as error:
                self._turn_away(message, error)

    def retire(self, number: int) -> None:
        """Drop an epoch once its last request is done. Hosts that cannot know which is the last keep it a while longer."""
        epoch = self.epochs.get(number)
        if epoch is not None:
            epoch.retired = True
            retired = self._retired_own if epoch.device == self.name else self._retired_at
            retired.setdefault(number, self.loop.time())
            self._purge()

    def submit(self, request: int | str, number: int, seed: int, deadline_s: float) -> None:
        """Begin a request on this device. It ends with one `done` or `failed`, whatever happens."""
        epoch = self.epochs.get(number)
        if epoch is not None and self.name in epoch.contributors:
            return self._take_part(Lead(self, epoch, request), seed)
        if epoch is None or epoch.device != self.name:
            text = f"epoch {number} is not installed" if epoch is None else f"epoch {number} is a plan for {epoch.device}"
            return self._stillborn(request, number, PlanError(f"{text} on {self.name}"))
        if (number, request) in self.leads:
            raise PlanError(f"request {request!r} of epoch {number} is already running on {self.name}")
        if self.active >= self.most:
            return self._stillborn(request, number, self._overloaded())
        origin = Origin(self, epoch, request, deadline_s)
        self.register(self.leads, origin)
        return self.with_image(origin, seed, origin.begin)

    def _take_part(self, lead: Lead, seed: int) -> None:
        """Contribute this device's view of the input to a request of another device."""
        if lead.key not in self._cancelled and lead.key not in self.leads:
            self.register(self.leads, lead)
            self.with_image(lead, seed, lambda image: lead.take(INPUT, image))

    def with_image(self, lead: Lead, seed: int, begin: Callable[[Payload], None]) -> None:
        """Go on with the input of a seed, once it is made."""
        epoch = lead.epoch
        if epoch.numerics is None:
            return begin(epoch.sizes.whole[INPUT])
        key = (epoch.graph.name, epoch.numerics.encoding, seed)
        if (image := self._images.get(key)) is not None:
            return begin(image)
        numerics = epoch.numerics

        def made(image: Any, error: BaseException | None) -> None:
            if lead.ended or lead.broken(error):
                return
            self._images[key] = image
            if len(self._images) > self._bounds.images:
                del self._images[next(iter(self._images))]
            begin(image)

        return self.compute.offload(lambda: numerics.input(seed), made)

    # -- what peers send -----------------------------------------------------------------------------------------------------

    def data(self, peer: str, message: Message) -> None:
        """A message of the data plane. Raises ProtocolError for one that makes no sense here."""
        kind, fields = message.kind, message.fields
        if kind == "lost":
            self._go_without(fields["host"], f"{peer} says: {fields['text']}")  # who has seen it has told all that must know
            return
        key = (fields["epoch"], fields["request"])
        lead = self.leads.get(key)
        if kind == "tensor":
            if lead is None and fields["device"] == self.name:
                self.rooms.give(key)
                return  # it comes back to a request that is over (two-way plans)
            if lead is None and (lead := self._new_lead(key, peer, message)) is None:
                return
            lead.receive(peer, message)
        elif kind in ("steal", "left"):
            if lead is not None:
                lead.asked(peer, message)
        elif kind == "halo" and lead is not None:
            lead.halo(peer, message)
        elif kind in ("tile", "halo", "offer", "over"):
            hand = self.hands.get(key)
            if hand is None and (hand := self._new_hand(key, peer, message)) is None:
                return
            hand.receive(peer, message)
        elif kind == "tile_done":
            if lead is not None:
                lead.tile_done(peer, message)
        elif kind == "answer":
            if isinstance(lead, Origin):
                lead.receive_answer(peer, message)
        elif kind == "decided":
            if lead is not None and lead.gate is not None:
                lead.gate.decided(peer, message)
        elif kind == "failure":
            if lead is not None and self.recovery and fields["error"] == PlanError.__name__:
                self.going_on.strand(lead, peer, str(fields["text"]))  # it has begun anew, and forgotten its plans
            elif lead is not None:
                self.fail(lead, str(fields["error"]), str(fields["text"]))
            else:
                self._forget(key)
        elif kind == "cancel":
            moved = bool(fields.get("moved", False))
            if self.recovery:
                self.going_on.cancelled(key, moved)
            self._forget(key, **({"moved": True} if moved else {}))
        else:
            raise ProtocolError(f"a message of kind {kind!r} has no place between agents")

    def peer_lost(self, host: str, reason: str) -> None:
        """A host is gone: every request here that involves it fails, and the devices of its plans hear of it."""
        text = f"{host} is gone ({reason})" if host not in reason else reason
        self._go_without(host, text)
        devices = {e.device for e in self.epochs.values() if e.tier is not None and host in e.hosts}
        for device in sorted(devices - {self.name, host}):  # an order that does not depend on the hash seed
            self._post(device, Message("lost", {"host": host, "text": text}), None)

    def _go_without(self, host: str, text: str) -> None:
        for request in [*self.leads.values(), *self.hands.values()]:
            if host in request.epoch.hosts and not request.ended:
                if request.epoch.plan.patience_s is not None and host in request.epoch.contributors:
                    if isinstance(request, Lead) and request.gate is not None:
                        request.gate.lose(host)
                    continue
                if self.recovery:
                    self.going_on.strand(request, host, text)
                else:
                    self.fail(request, PeerLost.__name__, text, lost=host)

    # -- the World of requests -----------------------------------------------------------------------------------------------

    def post(self, host: str, message: Message, sender: Sender | None = None) -> None:
        """Send to a peer; what opens a request there waits for room."""
        if self.windows and isinstance(sender, Lead):
            self.windows.post(host, message, sender)
        else:
            self._post(host, message, sender)

    def emit(self, message: Message) -> None:
        """Tell the orchestrator."""
        self._emit(message)

    def finished(self, request: Request) -> None:
        """A request has nothing left to do here."""
        self.end(request)
        self._emit(request.report())
        if isinstance(request, Lead) and request.gate is not None and request.gate.absent:
            self.remember_cancelled(request.key)  # what comes late finds nobody
        if isinstance(request, Origin):
            self.totals.done += 1
            self.kept.drop(request.request)
            self._emit(request.done())
            if request.settled is not None and request.settled["fallback"]:
                for host in sorted(request.epoch.hosts - {self.name}):
                    self._post(host, Message("cancel", request.fields()), None)
        else:
            self.totals.served += 1

    def fail(self, request: Request, error: str, text: str, *, lost: str = "") -> None:
        """End a request that cannot be done: its device tells the orchestrator, others tell the next host towards the device."""
        if request.ended or (isinstance(request, Origin) and request.fall_back()):
            return
        self.end(request)
        self._emit(request.report())
        epoch = request.epoch
        helpers: set[str] = set()
        if isinstance(request, Lead):
            helpers = {helper for step in epoch.steps for helper in step.helpers}
        if isinstance(request, Origin):
            self.totals.failed += 1
            times = {"submitted_at": request.submitted_at, "done_at": self.loop.time()}
            self._emit(Message("failed", request.fields(error=error, text=text, **times)))
            helpers = ({epoch.plan.hosts[tier] for tier in ("edge", "cloud")} & epoch.hosts) | epoch.contributors
            self.kept.drop(request.request)
            if self.recovery:
                helpers -= request.lost
        else:
            self.totals.dropped += 1
            self.remember_cancelled(request.key)
            towards = request.leader if isinstance(request, Hand) else epoch.device
            if towards != lost:
                self._post(towards, Message("failure", request.fields(error=error, text=text)), None)
        for helper in sorted(helpers - {self.name, lost}):
            self._post(helper, Message("cancel", request.fields()), None)

    def close(self) -> None:
        """Forget everything; nothing is sent any more."""
        self.rooms.clear()
        self.clear()
        self._images.clear()

    def clear(self) -> None:
        """Drop all requests and epochs, and what waits for any; nobody hears of it but who waits for room."""
        self.windows.clear()
        for request in [*self.leads.values(), *self.hands.values()]:
            self.end(request)
        self._parking.clear()
        self.rooms.give_all()
        self.kept.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self.epochs.clear()
        self._retired_at.clear()
        self._retired_own.clear()
        self._cancelled.clear()

    @property
    def active(self) -> int:
        """Requests that this host has a part in right now."""
        return len(self.leads) + len(self.hands)

    def running(self, requests: Sequence[int | str]) -> list[tuple[int | str, int]]:
        """Which of these requests of this device are under way, and under which epoch."""
        wanted = set(requests)
        return [(r, epoch) for (epoch, r), lead in self.leads.items() if r in wanted and isinstance(lead, Origin)]

    @property
    def parked(self) -> int:
        """Messages that wait for their plan."""
        return len(self._parking)

    # -- inside --------------------------------------------------------------------------------------------------------------

    def register(self, table: dict[Key, Any], request: Request) -> None:
        table[request.key] = request
        request.epoch.active += 1
        if self._sweeper is None and not isinstance(request, Origin):
            self._sweeper = self.loop.call_later(self._bounds.request_s, self._sweep)

    def end(self, request: Request) -> None:
        request.ended = True
        self.thief.forget(request)
        request.close()
        table: dict[Key, Any] = self.hands if isinstance(request, Hand) else self.leads
        table.pop(request.key, None)
        request.epoch.active -= 1
        if isinstance(request, Lead):
            self.rooms.give(request.key)
            self.windows.ended(request)
        if request.epoch.retired:
            self._purge()

    def _new_lead(self, key: Key, peer: str, message: Message) -> Lead | None:
        if (epoch := self._epoch_of(key, peer, message)) is None:
            return None
        if epoch.tier is None or epoch.tier == "device":
            raise ProtocolError(f"{self.name} does not lead a tier of epoch {key[0]}")
        lead = Lead(self, epoch, key[1])
        self.register(self.leads, lead)
        return lead

    def _new_hand(self, key: Key, peer: str, message: Message) -> Hand | None:
        if (epoch := self._epoch_of(key, peer, message)) is None:
            return None
        leader = epoch.plan.hosts["edge"]
        from_peer = message.kind == "halo" and epoch.chains and peer in epoch.hosts
        if not (epoch.tiles or epoch.pools) or not (peer == leader or from_peer):
            raise ProtocolError(f"{self.name} computes no tiles for {peer} in epoch {key[0]}")
        hand = Hand(self, epoch, key[1], leader)
        self.register(self.hands, hand)
        return hand

    def _epoch_of(self, key: Key, peer: str, message: Message) -> Epoch | None:
        """The epoch of a request that begins here; None when it is over already, or has to wait for its plan."""
        if key in self._cancelled:
            self.rooms.give(key)
            return None
        epoch = self.epochs.get(key[0])
        if epoch is None:
            self._parking.park(peer, message)
        elif self.active >= self.most:
            self._turn_away(message, self._overloaded())
            return None
        return epoch

    def _turn_away(self, message: Message, error: NodeError) -> None:
        """A tensor or tile that cannot be used: its request fails."""
        fields = message.fields
        key = (fields["epoch"], fields["request"])
        if key not in self.leads:
            self.rooms.give(key)
        request = self.leads.get(key) or self.hands.get(key)
        if request is not None:
            self.fail(request, type(error).__name__, str(error))
        elif key not in self._cancelled:
            self.remember_cancelled(key)
            failure = {"request": key[1], "epoch": key[0], "error": type(error).__name__, "text": str(error)}
            self._post(str(fields.get("device", fields.get("leader"))), Message("failure", failure), None)

    def _forget(self, key: Key, **more: Any) -> None:
        """The device has given a request up, at least under this plan."""
        self.remember_cancelled(key)
        if (hand := self.hands.get(key)) is not None:
            self.drop(hand)
        lead = self.leads.get(key)
        if lead is not None and not isinstance(lead, Origin):
            self.drop(lead)
            for host in sorted({helper for step in lead.epoch.steps for helper in step.helpers}):
                self._post(host, Message("cancel", lead.fields(**more)), None)

    def drop(self, request: Request) -> None:
        self.totals.dropped += 1
        self.end(request)
        self._emit(request.report())

    def is_cancelled(self, key: Key) -> bool:
        """Whether a part of a request is known to be over."""
        return key in self._cancelled

    def remember_cancelled(self, key: Key) -> None:
        self._cancelled[key] = None
        if len(self._cancelled) > self._bounds.cancelled:
            del self._cancelled[next(iter(self._cancelled))]

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"{self.name} has {self.active} requests in hand and takes no more; send fewer at a time")

    def _stillborn(self, request: int | str, number: int, error: NodeError) -> None:
        now = self.loop.time()
        self.totals.failed += 1
        what = {"request": request, "epoch": number, "error": type(error).__name__, "text": str(error)}
        self._emit(Message("failed", {**what, "submitted_at": now, "done_at": now}))

    def _purge(self) -> None:
        """Only the eldest are looked at: a cloud may hold the retired plans of a thousand devices."""
        for number in [number for number in self._retired_own if not self.epochs[number].active]:
            del self.epochs[number], self._retired_own[number]
        now, retired_s = self.loop.time(), self._bounds.retired_s
        for number in list(takewhile(lambda number: now - self._retired_at[number] >= retired_s, self._retired_at)):
            if not self.epochs[number].active:
                del self.epochs[number], self._retired_at[number]

    def _sweep(self) -> None:
        """The last resort: what a host still holds long after any deadline goes, so that nothing is kept for ever."""
        self._sweeper = None
        now = self.loop.time()
        oldest: float | None = None
        for request in [*self.leads.values(), *self.hands.values()]:
            if isinstance(request, Origin):
                continue
            if now - request.created >= self._bounds.request_s:
                text = f"{self.name} has waited {self._bounds.request_s:g} s for the rest of the request"
                self.fail(request, DeadlineExceeded.__name__, text)
            else:
                oldest = request.created if oldest is None else min(oldest, request.created)
        if oldest is not None:
            self._sweeper = self.loop.call_at(oldest + self._bounds.request_s, self._sweep)
