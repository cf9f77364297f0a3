"""A request on a host that leads a tier: a dataflow from arriving tensors through steps and tiles to tensors sent on.

Who routes messages to requests and what outlives them is `d3node.requests`' business; taking compute time is `d3node.compute`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d3node.channel import Message, Payload
from d3node.compute import Job
from d3node.dealing import Dealing
from d3node.errors import PlanError, ProtocolError
from d3node.gate import Gate
from d3node.handover import Chain, Halo, Superstep
from d3node.install import Epoch, StepWork, TileWork
from d3node.numerics import check_like
from d3node.request import Request, World, halo_message
from d3node.stealing import PoolWork
from d3node.supersteps import ChainWork, Supersteps, SuperstepWork


class Lead(Request):
    """A request on the host that leads a tier: runs the tier's steps in order, each when its inputs are there.

    `lost`: hosts of its plan that are lost (only where requests recover); it goes on as far as it gets without them. `let_in`: it
    has the room that it needs on hosts of higher tiers.
    """

    def __init__(self, world: World, epoch: Epoch, request: int | str) -> None:
        super().__init__(world, epoch, request)
        self._have: dict[int, Payload] = {}
        self._next = 0
        self._running = False
        self.awaited = len(epoch.receives) + len(epoch.provides)
        self.gate = Gate(self) if epoch.gated else None
        self._tiles: dict[int, Payload] = {}
        self._tiles_left = 0
        self._chain: Supersteps | None = None
        self._dealings: dict[int, Dealing] = {}
        self._helping = 0
        self._keeps = world.recovery and epoch.resumable
        self._gone_on = False
        self.lost: set[str] = set()
        self.let_in = False

    def receive(self, peer: str, message: Message) -> None:
        """A tensor from a lower tier. Raises ProtocolError unless it is one that this host waits for."""
        if self.gate is not None:
            self.gate.receive(peer, message)
            return
        vertex = message.fields["vertex"]
        if vertex not in self.epoch.receives or vertex in self._have or not self.awaited:
            raise ProtocolError(f"{self.world.name} does not wait for the tensor of vertex {vertex!r}")
        if len(message.payloads) != 1:
            raise ProtocolError("a tensor message carries one tensor")
        payload = check_like(message.payloads[0], self.epoch.sizes.whole[vertex], f"the tensor of vertex {vertex}")
        self.awaited -= 1
        self.note_transfer(peer, message, vertex=vertex)
        self.take(vertex, payload)

    def take(self, vertex: int, payload: Payload) -> None:
        """A tensor from elsewhere is here."""
        self.provide(vertex, payload)
        self.advance()

    def go_on(self, tensors: Mapping[int, Payload]) -> None:
        """Begin half-way, with tensors that exist. Raises PlanError when that has happened already."""
        if self._gone_on:
            raise PlanError(f"request {self.request!r} of epoch {self.epoch.number} goes on already on {self.world.name}")
        self._gone_on = True
        self.awaited -= len(self.epoch.provides)
        for vertex, payload in sorted(tensors.items()):
            self.provide(vertex, payload)
            if self.ended:
                return
        self.advance()

    def held(self) -> dict[int, Payload]:
        """Tensors in hand from which another host, or this one, could go on."""
        return dict(self._have)

    def provide(self, vertex: int, payload: Payload) -> None:
        """A tensor exists here from now on: send it on, answer with it, keep it for the steps that read it."""
        epoch = self.epoch
        if self._keeps and vertex in epoch.leaving:
            self.world.kept.put(self.request, {vertex: payload})
        for host in epoch.sends.get(vertex, ()):
            if self.gate is None:
                self.post(host, Message("tensor", self.fields(vertex=vertex, device=epoch.device), (payload,)))
            else:
                self.gate.send(host, vertex, payload)
        if vertex in epoch.answers:
            self.answer(vertex, payload)
        if vertex in epoch.wanted:
            self._have[vertex] = payload
        if self.gate is not None and vertex in epoch.exits:
            self.gate.decide(vertex, payload)

    def conclude(self, exit_: int, payload: Payload, absent: list[str]) -> None:
        """An exit decided here answers the request."""
        fields = self.fields(vertex=self.epoch.plan.exits[exit_].vertex, exit=exit_, absent=absent)
        self.post(self.epoch.device, Message("answer", fields, (payload,)))

    def falls_back(self) -> bool:
        """Whether an exit that is not sure answers all the same, because it is too late for any other."""
        return False

    def stop(self, awaited: int) -> None:
        """Compute nothing more; so many tensors are still on their way here."""
        self._next, self.awaited = len(self.epoch.steps), awaited
        self._have.clear()

    def close(self) -> None:
        if self.gate is not None:
            self.gate.close()

    def answer(self, vertex: int, payload: Payload) -> None:
        """One of the model's outputs, on its way to the device."""
        self.post(self.epoch.device, Message("answer", self.fields(vertex=vertex), (payload,)))

    def advance(self) -> None:
        """Start the next step if its inputs are there."""
        steps = self.epoch.steps
        if self.ended or self._running:
            return
        if self._next == len(steps):
            self.check_finished()
            return
        step = steps[self._next]
        if self.gate is not None and step.after > self.gate.passed:
            return
        for vertex in step.inputs:
            if vertex not in self._have:
                return
        self._running = True
        if step.stack is None:
            self._start_part(step)
        elif step.chain is not None:
            self._start_chain(step, step.chain)
        elif step.pool is not None:
            self._start_pool(step, step.pool)
        else:
            self._start_stack(step)

    def check_finished(self) -> None:
        if self.ended or self._sending or self.awaited or self._helping or self._next < len(self.epoch.steps):
            return
        if self.gate is None or self.gate.idle:
            self.world.finished(self)

    # -- plain steps ---------------------------------------------------------------------------------------------------------

    def _start_part(self, step: StepWork) -> None:
        run = None
        if (numerics := self.epoch.numerics) is not None:
            inputs = {v: self._have[v] for v in step.inputs}

            def run() -> dict[int, Payload]:
                return numerics.run_part(step.vertices, inputs)

        self.world.compute.submit(Job(self, self.seconds(step.seconds), run, self._part_done, step))

    def _part_done(self, job: Job) -> None:
        if self.ended or self.broken(job.error):
            return
        step: StepWork = job.label
        self.note_compute(job, step.vertices, step=step.index)
        sizes = self.epoch.sizes.whole
        self._step_done(step, {v: sizes[v] for v in step.outputs} if job.result is None else job.result)

    def _step_done(self, step: StepWork, outputs: dict[int, Payload]) -> None:
        self._running = False
        if self.gate is not None and self.gate.stopped:  # an exit was decided without it
            self.check_finished()
            return
        for vertex in step.freed:
            del self._have[vertex]
        self._next += 1
        for vertex in step.outputs:
            self.provide(vertex, outputs[vertex])
            if self.ended:
                return
        self.advance()

    # -- stacks: scatter, own tiles, gather ----------------------------------------------------------------------------------

    def _start_stack(self, step: StepWork) -> None:
        self._tiles = {}
        self._tiles_left = len(step.tiles)
        inputs = {v: self._have[v] for v in step.inputs}
        for work in step.tiles:
            if work.host != self.world.name:
                self._scatter(step, work, inputs)
        for work in step.tiles:
            if work.host == self.world.name:
                self._own_tile(step, work, inputs)

    def _scatter(self, step: StepWork, work: TileWork, inputs: dict[int, Payload]) -> None:
        message_fields = self.fields(stack=work.stack, tile=work.tile, leader=self.world.name)
        numerics = self.epoch.numerics
        if numerics is None:
            self.post(work.host, Message("tile", message_fields, work.pieces))
            return

        def cut(pieces: Any, error: BaseException | None) -> None:
            if not self.ended and not self.broken(error):
                self.post(work.host, Message("tile", message_fields, pieces))

        self.world.compute.offload(lambda: numerics.cut(step.vertices, work.box, inputs), cut)

    def _own_tile(self, step: StepWork, work: TileWork, inputs: dict[int, Payload]) -> None:
        run = None
        if (numerics := self.epoch.numerics) is not None:

            def run() -> Payload:
                pieces = numerics.cut(step.vertices, work.box, inputs)
                return numerics.run_tile(step.vertices, work.box, work.reads, pieces)

        def done(job: Job) -> None:
            if self.ended or self.broken(job.error):
                return
            self.note_compute(job, step.vertices, stack=work.stack, tile=work.tile)
            self._gather(work.tile, work.output if job.result is None else job.result)

        self.world.compute.submit(Job(self, self.seconds(work.seconds), run, done))

    def tile_done(self, peer: str, message: Message) -> None:
        """A tile from another host. Raises ProtocolError unless it is one that is waited for, from the host that computes it."""
        stack, tile = message.fields["stack"], message.fields["tile"]
        step = self.epoch.steps[self._next] if self._running else None
        if step is not None and step.pool is not None:
            self.note_transfer(peer, message, stack=stack, tile=tile)
            self._gather(tile, self._dealings[step.pool.index].returned(peer, stack, tile, message.payloads))
            return
        works = [] if step is None else [w for w in step.tiles if w.stack == stack and w.tile == tile and w.host == peer]
        if not works or tile in self._tiles or len(message.payloads) != 1:
            raise ProtocolError(f"{self.world.name} does not wait for tile {tile!r} of stack {stack!r} from {peer}")
        payload = check_like(message.payloads[0], works[0].output, f"tile {tile} of stack {stack}")
        self.note_transfer(peer, message, stack=stack, tile=tile)
        self._gather(tile, payload)

    def _gather(self, tile: int, payload: Payload) -> None:
        self._tiles[tile] = payload
        self._tiles_left -= 1
        if self._tiles_left:
            return
        step = self.epoch.steps[self._next]
        vertex = step.outputs[0]
        tiles, self._tiles = self._tiles, {}
        numerics = self.epoch.numerics
        if numerics is None:
            self._step_done(step, {vertex: self.epoch.sizes.whole[vertex]})
            return
        boxes = [work.box for work in step.tiles]
        ordered = [tiles[work.tile] for work in step.tiles]

        def joined(whole: Any, error: BaseException | None) -> None:
            if not self.ended and not self.broken(error):
                self._step_done(step, {vertex: whole})

        self.world.compute.offload(lambda: numerics.assemble(vertex, boxes, ordered), joined)

    # -- stacks that hand over to one another --------------------------------------------------------------------------------

    def _start_chain(self, step: StepWork, chain: tuple[ChainWork, Chain]) -> None:
        mine, everybody = chain
        self._tiles = {}
        self._tiles_left = len(step.tiles)
        self._chain = supersteps = Supersteps(self, mine, self._send_halo, self._superstep_done)
        inputs = {v: self._have[v] for v in step.inputs}
        sizes, numerics = self.epoch.sizes, self.epoch.numerics
        for tile in everybody.supersteps:
            if not tile.outside:
                continue
            if numerics is None:
                pieces = tuple(sizes.region(u, box) for u, box in sorted(tile.outside.items()))
                self._pieces_cut(supersteps, tile, pieces)
                continue

            def cut(pieces: Any, error: BaseException | None, tile: Superstep = tile) -> None:
                if not self.ended and not self.broken(error):
                    self._pieces_cut(supersteps, tile, pieces)

            self.world.compute.offload(lambda tile=tile: numerics.cut_regions(tile.outside, inputs), cut)  # type: ignore[misc]
        supersteps.advance()

    def _pieces_cut(self, supersteps: Supersteps, tile: Superstep, pieces: tuple[Payload, ...]) -> None:
        stack, number = tile.place
        if tile.host == self.world.name:
            supersteps.pieces(tile.place, pieces)
        else:
            self.post(tile.host, Message("tile", self.fields(stack=stack, tile=number, leader=self.world.name), pieces))

    def _send_halo(self, halo: Halo, payload: Payload) -> None:
        self.post(halo.target, halo_message(self, halo, self.world.name, payload))

    def _superstep_done(self, work: SuperstepWork, output: Payload) -> None:
        if work.last:
            self._gather(work.tile.place[1], output)

    def halo(self, peer: str, message: Message) -> None:
        """A halo for this host, or to be passed on. Raises ProtocolError unless a chain is running."""
        fields = message.fields
        if self._chain is None or not self._running:
            raise ProtocolError(f"{self.world.name} waits for no halo")
        self.note_transfer(peer, message, stack=fields["stack"], tile=fields["tile"])
        if fields["to"] == self.world.name:
            self._chain.halo((fields["stack"], fields["tile"]), message.payloads)
        elif fields["to"] in self.epoch.steps[self._next].helpers:
            self.post(fields["to"], Message("halo", fields, message.payloads))
        else:
            raise ProtocolError(f"a halo for {fields['to']!r}, which computes no tiles here")

    # -- stacks whose tiles are fetched --------------------------------------------------------------------------------------

    def _start_pool(self, step: StepWork, work: PoolWork) -> None:
        self._tiles = {}
        self._tiles_left = len(step.tiles)
        self._helping += len(step.helpers)
        inputs = {v: self._have[v] for v in step.inputs}
        takes_part = any(tile.host == self.world.name for tile in step.tiles)
        dealing = self._dealings[work.index] = Dealing(self, work, step.helpers, takes_part, inputs, self._gather)
        dealing.start()

    def asked(self, peer: str, message: Message) -> None:
        """A host asks for a tile, or says that it will not any more. Raises ProtocolError from one that was offered none."""
        stack = message.fields["stack"]
        dealing = self._dealings.get(stack)
        if dealing is None or peer not in dealing.helpers:
            raise ProtocolError(f"{peer} was offered no tiles of stack {stack!r} by {self.world.name}")
        self.note_transfer(peer, message, stack=stack)
        if message.kind == "steal":
            dealing.asked(peer)
        else:
            self._helping -= 1
            self.check_finished()
