"""Carrying out requests on one host: a dataflow from arriving tensors through steps and tiles to tensors sent on.

`Lead` is a request on a host that leads a tier, `Hand` one on a host that computes tiles for another. Both end exactly once.
Who routes messages to them and what outlives a request is `d3node.requests`' business; taking compute time is `d3node.compute`'s.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from d3node.channel import Message, Payload
from d3node.compute import ComputeQueue, Job
from d3node.dealing import Dealing, Fetched
from d3node.errors import ComputeError, ProtocolError
from d3node.gate import Gate
from d3node.graph import INPUT
from d3node.handover import Chain, Halo, Superstep
from d3node.install import Epoch, StepWork, TileWork
from d3node.links import Sender
from d3node.numerics import check_like
from d3node.stealing import Offer, PoolWork, Thief
from d3node.supersteps import ChainWork, Supersteps, SuperstepWork

Key = tuple[int, int | str]
"""(epoch, request)."""


class World(Protocol):
    """What a request needs from its agent."""

    name: str
    loop: asyncio.AbstractEventLoop
    compute: ComputeQueue
    modelled: bool
    thief: Thief

    def post(self, host: str, message: Message, sender: Sender | None = None) -> None: ...

    def emit(self, message: Message) -> None: ...

    def finished(self, request: Request) -> None: ...

    def fail(self, request: Request, error: str, text: str) -> None: ...


class Request:
    """What every host keeps of a request: its records, its bytes, and how much of it is still being sent."""

    def __init__(self, world: World, epoch: Epoch, request: int | str) -> None:
        self.world = world
        self.epoch = epoch
        self.request = request
        self.key: Key = (epoch.number, request)
        self.ended = False
        self.created = world.loop.time()
        self.bytes_sent = 0
        self.bytes_received = 0
        self.records: list[dict[str, Any]] = []
        self._sending = 0

    def fields(self, **more: Any) -> dict[str, Any]:
        """The fields that name this request."""
        return {"request": self.request, "epoch": self.epoch.number, **more}

    def post(self, host: str, message: Message) -> None:
        """Send something that this request has to wait for before it is finished here."""
        self._sending += 1
        self.world.post(host, message, self)

    def sent(self, wire_bytes: int) -> None:
        """One of the posted messages is handed to the network."""
        self._sending -= 1
        self.bytes_sent += wire_bytes
        if not self._sending:
            self.check_finished()

    def check_finished(self) -> None:
        """Tell the world when nothing is left to do here."""
        raise NotImplementedError

    def close(self) -> None:
        """The request is over: nothing of it may come due any more."""

    def note_transfer(self, peer: str, message: Message, **what: Any) -> None:
        """Record how a message of this request travelled."""
        transfer = message.transfer
        if transfer is None:
            return
        self.bytes_received += transfer.wire_bytes
        self.records.append(
            {
                "what": "transfer",
                "peer": peer,
                "kind": message.kind,
                **what,
                "start": transfer.sent_at,
                "end": transfer.received_at,
                "bytes": transfer.wire_bytes,
            }
        )

    def note_compute(self, job: Job, vertices: list[int], **what: Any) -> None:
        """Record a computation."""
        self.records.append(
            {
                "what": "compute",
                **what,
                "vertices": vertices,
                "queued_s": job.queued_s,
                "start": job.start,
                "end": job.end,
                "modelled_s": job.seconds,
                "overrun_s": job.overrun_s,
            }
        )

    def seconds(self, seconds: float | None) -> float | None:
        """The modelled time of a computation, None in measured mode."""
        return seconds if self.world.modelled else None

    def report(self) -> Message:
        """This host's report of the request."""
        return Message(
            "report",
            self.fields(
                host=self.world.name, records=self.records, bytes_sent=self.bytes_sent, bytes_received=self.bytes_received
            ),
        )

    def broken(self, error: BaseException | None) -> bool:
        """Fail the request if its work failed; True when there is nothing to go on with."""
        if error is not None and not self.ended:
            name = type(error).__name__ if isinstance(error, ComputeError | ProtocolError) else ComputeError.__name__
            self.world.fail(self, name, f"on {self.world.name}: {error}")
        return self.ended


class Lead(Request):
    """A request on the host that leads a tier: runs the tier's steps in order, each when its inputs are there."""

    def __init__(self, world: World, epoch: Epoch, request: int | str) -> None:
        super().__init__(world, epoch, request)
        self._have: dict[int, Payload] = {}
        self._next = 0
        self._running = False
        self.awaited = len(epoch.receives)
        self.gate = Gate(self) if epoch.gated else None
        self._tiles: dict[int, Payload] = {}
        self._tiles_left = 0
        self._chain: Supersteps | None = None
        self._dealings: dict[int, Dealing] = {}
        self._helping = 0

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

    def provide(self, vertex: int, payload: Payload) -> None:
        """A tensor exists here from now on: send it on, answer with it, keep it for the steps that read it."""
        epoch = self.epoch
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


class Origin(Lead):
    """A request on its device: begins with the input, ends with the answer or an error."""

    def __init__(self, world: World, epoch: Epoch, request: int | str, deadline_s: float) -> None:
        super().__init__(world, epoch, request)
        self.submitted_at = self.created
        self.deadline_s = deadline_s
        self.deadline: asyncio.TimerHandle | None = None
        self._answers: dict[int, Payload] = {}
        self.settled: dict[str, Any] | None = None
        self._insurance: asyncio.TimerHandle | None = None
        self._overdue = False

    def begin(self, payload: Payload) -> None:
        """The input is there: the request's time starts."""
        self.submitted_at = self.world.loop.time()
        self.deadline = self.world.loop.call_later(self.deadline_s, self._late)
        if self.epoch.plan.fallback_s is not None:
            self._insurance = self.world.loop.call_later(self.epoch.plan.fallback_s, self._insure)
        self.provide(INPUT, payload)
        self.advance()

    def answer(self, vertex: int, payload: Payload) -> None:
        self._answers[vertex] = payload
        if len(self._answers) == len(set(self.epoch.graph.outputs)):
            self.world.finished(self)

    def receive_answer(self, peer: str, message: Message) -> None:
        """An output that was computed on another host. Raises ProtocolError unless it is one that is waited for."""
        vertex = message.fields["vertex"]
        if vertex not in self.epoch.graph.outputs or vertex in self._answers or len(message.payloads) != 1:
            raise ProtocolError(f"{self.world.name} does not wait for an answer of vertex {vertex!r}")
        payload = check_like(message.payloads[0], self.epoch.sizes.whole[vertex], f"the answer of vertex {vertex}")
        self.note_transfer(peer, message, vertex=vertex)
        if (exits := self.epoch.plan.exits) and self.settled is None:
            number, absent = message.fields["exit"], message.fields["absent"]
            if number not in range(len(exits)) or exits[number].vertex != vertex:
                raise ProtocolError(f"vertex {vertex!r} is not exit {number!r} of the plan")
            self.conclude(number, payload, [str(host) for host in absent])
        elif not exits:
            self.answer(vertex, payload)

    def conclude(self, exit_: int, payload: Payload, absent: list[str], fallback: bool = False) -> None:
        """The request has its answer. It ends once what it has posted is handed to the network, so that all bytes are counted;
        with the answer to fall back on, at once."""
        self._answers = {self.epoch.plan.exits[exit_].vertex: payload}
        now = self.world.loop.time()
        self.settled = {"done_at": now, "exit": exit_, "absent": absent, "fallback": fallback}
        self.close()
        if fallback:
            self.world.finished(self)
        else:
            self.check_finished()

    def check_finished(self) -> None:
        """Only the answer finishes a request on its device."""
        if self.settled is not None and not self.ended and not self._sending:
            self.world.finished(self)

    def close(self) -> None:
        super().close()
        for timer in (self.deadline, self._insurance):
            if timer is not None:
                timer.cancel()

    def fall_back(self) -> bool:
        """Answer with the last exit of the device's own, if the plan allows it and there is one yet."""
        if self.epoch.plan.fallback_s is None or self.gate is None or self.gate.insurance is None or self.settled is not None:
            return False
        number, payload = self.gate.insurance
        self.gate.stopped = True
        self.conclude(number, payload, [], fallback=True)
        return True

    def falls_back(self) -> bool:
        return self._overdue and self.fall_back()

    def _insure(self) -> None:
        self._overdue = not self.fall_back()

    def done(self) -> Message:
        """The request's end in success."""
        if self.settled is not None:
            return Message("done", self.fields(submitted_at=self.submitted_at, **self.settled), tuple(self._answers.values()))
        answers = tuple(self._answers[v] for v in self.epoch.graph.outputs)
        return Message("done", self.fields(submitted_at=self.submitted_at, done_at=self.world.loop.time()), answers)

    def _late(self) -> None:
        self.world.fail(self, "DeadlineExceeded", f"not done within {self.deadline_s:g} s")


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


def halo_message(request: Request, halo: Halo, leader: str, payload: Payload) -> Message:
    """A halo on its way."""
    stack, tile = halo.place
    return Message("halo", request.fields(stack=stack, tile=tile, leader=leader, to=halo.target), (payload,))
