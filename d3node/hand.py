"""A request on a host that computes tiles for another: tiles sent to it, that it fetches, or that hand over to one another.

Whose turn it is among several requests is `d3node.stealing`'s and `d3node.compute`'s business.
"""

from __future__ import annotations

from d3node.channel import Message, Payload
from d3node.compute import Job
from d3node.dealing import Fetched
from d3node.errors import ProtocolError
from d3node.handover import Halo
from d3node.install import Epoch
from d3node.numerics import check_like
from d3node.request import Request, World, halo_message
from d3node.stealing import Offer
from d3node.supersteps import Supersteps, SuperstepWork


class Hand(Request):
    """A request on a host that computes tiles for another: every tile once, back to the leader as soon as it is done."""

    def __init__(self, world: World, epoch: Epoch, request: int | str, leader: str) -> None:
        super().__init__(world, epoch, request)
        self.leader = leader
        self._taken: set[tuple[int, int]] = set()
        self._done = 0
        self._chains: dict[int, Supersteps] = {}
        self._offers: dict[int, Offer] = {}
        self._over = 0

    def receive(self, peer: str, message: Message) -> None:
        """A tile to compute, or what comes with tiles. Raises ProtocolError unless it is waited for and fits."""
        if message.kind != "tile" or message.fields["stack"] in self.epoch.chains:
            return self._receive_beside(peer, message)
        if message.fields["stack"] in self.epoch.pools:
            return self._fetched(peer, message)
        place = (message.fields["stack"], message.fields["tile"])
        work = self.epoch.tiles.get(place)
        if work is None or place in self._taken or len(message.payloads) != len(work.pieces):
            raise ProtocolError(f"tile {place[1]!r} of stack {place[0]!r} is not for {self.world.name}")
        for payload, expected in zip(message.payloads, work.pieces, strict=True):
            check_like(payload, expected, f"a piece of tile {work.tile} of stack {work.stack}")
        self._taken.add(place)
        self.note_transfer(peer, message, stack=work.stack, tile=work.tile)
        vertices, pieces = self.epoch.plan.stacks[work.stack].vertices, message.payloads
        run = None
        if (numerics := self.epoch.numerics) is not None:

            def run() -> Payload:
                return numerics.run_tile(vertices, work.box, work.reads, pieces)

        def done(job: Job) -> None:
            if self.ended or self.broken(job.error):
                return
            self.note_compute(job, list(vertices), stack=work.stack, tile=work.tile)
            output = work.output if job.result is None else job.result
            self._done += 1
            self.post(self.leader, Message("tile_done", self.fields(stack=work.stack, tile=work.tile), (output,)))

        return self.world.compute.submit(Job(self, self.seconds(work.seconds), run, done))

    def check_finished(self) -> None:
        if self.ended or self._sending or self._done < len(self.epoch.tiles) or self._over < len(self.epoch.pools):
            return
        if not any(offer.working for offer in self._offers.values()):
            self.world.finished(self)

    def _receive_beside(self, peer: str, message: Message) -> None:
        """All that is not a tile which can be computed at once."""
        kind, stack = message.kind, message.fields["stack"]
        if kind in ("offer", "over"):
            self._offered(peer, message)
            return
        work = self.epoch.chains.get(stack)
        if work is None:
            raise ProtocolError(f"{self.world.name} has no part in a chain with stack {stack!r}")
        place = (stack, message.fields["tile"])
        self.note_transfer(peer, message, stack=stack, tile=place[1])
        chain = self._chains.get(work.stacks[0])
        if chain is None:
            chain = self._chains[work.stacks[0]] = Supersteps(self, work, self._send_halo, self._superstep_done)
        if kind == "halo":
            chain.halo(place, message.payloads)
        else:
            chain.pieces(place, message.payloads)

    def _send_halo(self, halo: Halo, payload: Payload) -> None:
        straight = self.epoch.plan.stacks[halo.place[0]].handover == "neighbours"
        self.post(halo.target if straight else self.leader, halo_message(self, halo, self.leader, payload))

    def _superstep_done(self, work: SuperstepWork, output: Payload) -> None:
        self._done += 1
        stack, tile = work.tile.place
        if work.last:
            self.post(self.leader, Message("tile_done", self.fields(stack=stack, tile=tile), (output,)))
        else:
            self.check_finished()

    # -- tiles that are fetched ----------------------------------------------------------------------------------------------

    def _offered(self, peer: str, message: Message) -> None:
        stack = message.fields["stack"]
        work, offer = self.epoch.pools.get(stack), self._offers.get(stack)
        if work is None or (offer is None) != (message.kind == "offer"):
            raise ProtocolError(f"{self.world.name} does not wait for {message.kind!r} of stack {stack!r}")
        self.note_transfer(peer, message, stack=stack)
        if offer is None:

            def ask() -> None:
                self.post(self.leader, Message("steal", self.fields(stack=stack)))

            offer = self._offers[stack] = Offer(self, stack, ask)
            self.world.thief.offer(offer)
            return
        self.world.thief.withdraw(offer)
        self._over += 1
        self.post(self.leader, Message("left", self.fields(stack=stack)))

    def _fetched(self, peer: str, message: Message) -> None:
        """The answer to `steal`."""
        stack, tile = message.fields["stack"], message.fields["tile"]
        work, offer = self.epoch.pools[stack], self._offers.get(stack)
        if offer is None or offer.working or (stack, tile) in self._taken:
            raise ProtocolError(f"{self.world.name} has not asked for tile {tile!r} of stack {stack!r}")
        fetched = Fetched.read(work, self.epoch.sizes, message)
        self._taken.add((stack, tile))
        self.note_transfer(peer, message, stack=stack, tile=tile)
        offer.working = True

        def done(output: Payload, kept: list[Payload]) -> None:
            self.world.thief.done(offer)
            self.post(self.leader, Message("tile_done", self.fields(stack=stack, tile=tile), (output, *kept)))

        fetched.compute(self, message.payloads, done)
