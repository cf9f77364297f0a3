"""One host's part in a chain of stacks that hand over to one another: compute, send halos on, take halos in, compute again.

There is no barrier but the data: a host starts its next tile as soon as it has what the tile reads. Whom a halo goes to by way of
is the owner's business (`d3node.execute`), the geometry that of `d3node.handover`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from d3node.channel import Payload
from d3node.compute import Job
from d3node.errors import ProtocolError
from d3node.handover import Chain, Halo, Place, Superstep
from d3node.intervals import Box
from d3node.numerics import Sizes, check_like

if TYPE_CHECKING:
    from d3node.request import Request


@dataclass(frozen=True, slots=True)
class SuperstepWork:
    """One tile as its host carries it out. `reads`: all vertices that it reads, ascending; `pieces`: what comes of them from the
    leader; `keeps`: somebody here reads the tile's map later; `frees`: maps that nobody here reads any more after this tile."""

    tile: Superstep
    vertices: tuple[int, ...]
    reads: tuple[int, ...]
    pieces: tuple[Payload, ...]
    output: Payload
    seconds: float | None
    sends: tuple[tuple[Halo, Payload], ...]
    keeps: bool
    frees: tuple[int, ...]
    last: bool


@dataclass(frozen=True)
class ChainWork:
    """A chain as one host carries it out; `halos` are those it gets, with their shapes."""

    stacks: tuple[int, ...]
    steps: tuple[SuperstepWork, ...]
    halos: Mapping[Place, tuple[Halo, Payload]]


def work_of(
    chain: Chain, host: str, sizes: Sizes, vertices: Mapping[int, tuple[int, ...]], seconds: Callable[[Place], float | None]
) -> ChainWork:
    """Compile a host's part; `vertices` by stack."""
    mine = chain.of(host)
    steps = []
    last_use = {u: i for i, step in enumerate(mine) for u in step.inside}
    for i, step in enumerate(mine):
        stack, _ = step.place
        output = vertices[stack][-1]
        sends = tuple((halo, sizes.region(halo.vertex, halo.box)) for halo in chain.halos if halo.place == step.place)
        steps.append(
            SuperstepWork(
                tile=step,
                vertices=vertices[stack],
                reads=tuple(sorted((*step.outside, *step.inside))),
                pieces=tuple(sizes.region(u, box) for u, box in sorted(step.outside.items())),
                output=sizes.region(output, step.box),
                seconds=seconds(step.place),
                sends=sends,
                keeps=output in last_use,
                frees=tuple(u for u in step.inside if last_use[u] == i),
                last=stack == chain.stacks[-1],
            )
        )
    halos = {halo.place: (halo, sizes.region(halo.vertex, halo.box)) for halo in chain.halos if halo.target == host}
    return ChainWork(chain.stacks, tuple(steps), halos)


class Supersteps:
    """Runs a host's tiles of a chain for one request, in order, each when its inputs are there.

    `send(halo, payload)` is called for every halo that another host needs, `done(work, output)` after every tile.
    """

    def __init__(
        self,
        request: Request,
        work: ChainWork,
        send: Callable[[Halo, Payload], None],
        done: Callable[[SuperstepWork, Payload], None],
    ) -> None:
        self._request = request
        self._work = work
        self._send = send
        self._done = done
        self._next = 0
        self._running = False
        self._pieces: dict[Place, tuple[Payload, ...]] = {}
        self._parts: dict[int, list[tuple[Box, Payload]]] = {}
        self._here: set[Place] = set()

    def pieces(self, place: Place, payloads: Sequence[Payload], checked: bool = False) -> None:
        """What the leader has of a tile's inputs. Raises ProtocolError unless it is waited for and fits."""
        work = next((w for w in self._work.steps[self._next :] if w.tile.place == place), None)
        if work is None or place in self._pieces or len(payloads) != len(work.pieces):
            raise ProtocolError(f"pieces of tile {place[1]!r} of stack {place[0]!r} are not waited for")
        if not checked:
            for payload, expected in zip(payloads, work.pieces, strict=True):
                check_like(payload, expected, f"a piece of tile {place[1]} of stack {place[0]}")
        self._pieces[place] = tuple(payloads)
        self.advance()

    def halo(self, place: Place, payloads: Sequence[Payload]) -> None:
        """A part of another host's tile. Raises ProtocolError unless it is waited for and fits."""
        found = self._work.halos.get(place)
        if found is None or place in self._here or len(payloads) != 1:
            raise ProtocolError(f"a halo of tile {place[1]!r} of stack {place[0]!r} is not waited for")
        halo, expected = found
        payload = check_like(payloads[0], expected, f"a halo of tile {place[1]} of stack {place[0]}")
        self._here.add(place)
        self._parts.setdefault(halo.vertex, []).append((halo.box, payload))
        self.advance()

    def advance(self) -> None:
        """Start the next tile if everything that it reads is there."""
        if self._running or self._request.ended or self._next == len(self._work.steps):
            return
        work = self._work.steps[self._next]
        if (work.pieces and work.tile.place not in self._pieces) or not work.tile.waits <= self._here:
            return
        self._running = True
        given = dict(zip(sorted(work.tile.outside), self._pieces.pop(work.tile.place, ()), strict=True))
        run = None
        if (numerics := self._request.epoch.numerics) is not None:
            held = {u: list(self._parts.get(u, ())) for u in work.tile.inside}

            def run() -> tuple[Payload, list[Payload]]:
                tile = work.tile
                read = {u: numerics.patch(u, region, held[u]) for u, region in tile.inside.items()}
                pieces = [given[u] if u in given else read[u] for u in work.reads]
                output = numerics.run_tile(work.vertices, tile.box, work.reads, pieces)
                halos = [numerics.patch(halo.vertex, halo.box, [(tile.box, output)]) for halo, _ in work.sends]
                return output, halos

        world = self._request.world
        world.compute.submit(Job(self._request, self._request.seconds(work.seconds), run, self._computed, work))

    def _computed(self, job: Job) -> None:
        request, work = self._request, job.label
        if request.ended or request.broken(job.error):
            return
        stack, tile = work.tile.place
        request.note_compute(job, list(work.vertices), stack=stack, tile=tile)
        result: Any = job.result
        output, halos = (work.output, [shape for _, shape in work.sends]) if result is None else result
        for u in work.frees:
            self._parts.pop(u, None)
        if work.keeps:
            self._parts.setdefault(work.vertices[-1], []).append((work.tile.box, output))
        self._next += 1
        self._running = False
        for (halo, _), payload in zip(work.sends, halos, strict=True):
            self._send(halo, payload)
        self._done(work, output)
        self.advance()
