"""Tiles that are fetched, at both ends: the leader deals them to whoever is idle, and a host computes what it has fetched.

Whose turn it is on a host is in `d3node.stealing`; which tile comes next, and what of it has been computed, in `d3node.pool`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from d3node.channel import Message, Payload
from d3node.compute import Job
from d3node.errors import NodeError, ProtocolError
from d3node.intervals import Box
from d3node.numerics import Sizes, check_like
from d3node.pool import Deal, Pool
from d3node.reuse import PartialRegion
from d3node.stealing import Offer, PoolWork

if TYPE_CHECKING:
    from d3node.request import Request

Done = Callable[[Payload, list[Payload]], None]


@dataclass(frozen=True)
class Fetched:
    """A tile as the host that computes it knows it."""

    work: PoolWork
    tile: int
    region: PartialRegion
    keep: tuple[tuple[int, Box], ...]
    output: Payload
    kept: tuple[Payload, ...]

    @classmethod
    def of(cls, work: PoolWork, sizes: Sizes, tile: int, region: PartialRegion, keep: Sequence[tuple[int, Box]]) -> Fetched:
        """From regions that are known to fit."""
        output = sizes.region(work.vertices[-1], work.geometry.box(tile))
        return cls(work, tile, region, tuple(keep), output, tuple(sizes.region(v, box) for v, box in keep))

    @classmethod
    def read(cls, work: PoolWork, sizes: Sizes, message: Message) -> Fetched:
        """From a `tile` message. Raises ProtocolError unless tile, boxes and payloads fit together."""
        tile, stack = message.fields["tile"], work.geometry.stack
        given, keep = _boxes(message.fields["given"]), _boxes(message.fields["keep"])
        inner = set(work.vertices[:-1])
        if not isinstance(tile, int) or not 0 <= tile < len(stack.tiles) or stack.tiles[tile].empty:
            raise ProtocolError(f"stack {work.index} has no tile {tile!r}")
        if any(v not in inner for v, _ in (*given, *keep)):
            raise ProtocolError(f"tile {tile} of stack {work.index} comes with parts of maps that are not its own")
        region = work.geometry.region(tile, given)
        expected = fetched_payloads(sizes, region)
        if region.used != given or len(expected) != len(message.payloads):
            raise ProtocolError(f"tile {tile} of stack {work.index} comes with parts that it cannot use")
        if any(_outside(box, region.held[v]) for v, box in keep):
            raise ProtocolError(f"tile {tile} of stack {work.index} is to keep what it does not have")
        for payload, shape in zip(message.payloads, expected, strict=True):
            check_like(payload, shape, f"a piece of tile {tile} of stack {work.index}")
        return cls.of(work, sizes, tile, region, keep)

    def compute(self, request: Request, payloads: Sequence[Payload], done: Done) -> None:
        """Compute it on this host, when its turn comes."""
        run = None
        if (numerics := request.epoch.numerics) is not None:

            def run() -> tuple[Payload, list[Payload]]:
                return numerics.run_partial(self.work.vertices, self.region, payloads, self.keep)

        def computed(job: Job) -> None:
            if request.ended or request.broken(job.error):
                return
            positions = [self.region.positions()[v] for v in self.work.vertices]
            what = {"stack": self.work.index, "tile": self.tile, "positions": positions}
            request.note_compute(job, list(self.work.vertices), **what)
            output, kept = (self.output, list(self.kept)) if job.result is None else job.result
            done(output, kept)

        request.world.compute.submit(Job(request, request.seconds(self.work.seconds(self.region)), run, computed))


class Dealing:
    """The leader's side of one stack of one request. `gather(tile, payload)` is called for the tiles of the leader itself."""

    def __init__(
        self,
        request: Request,
        work: PoolWork,
        helpers: Sequence[str],
        takes_part: bool,
        inputs: Mapping[int, Payload],
        gather: Callable[[int, Payload], None],
    ) -> None:
        self.work = work
        self.helpers = tuple(helpers)
        self._request = request
        self._inputs = inputs
        self._gather = gather
        self._pool: Pool[Payload] = Pool(work.geometry)
        self._flying: dict[int, tuple[str, Deal[Payload], Fetched]] = {}
        self._told: set[str] = set()
        self._own = Offer(request, work.index, self._take_own, home=True) if takes_part else None

    def start(self) -> None:
        """Tell everybody that there are tiles."""
        request, name = self._request, self._request.world.name
        for host in self.helpers:
            request.post(host, Message("offer", request.fields(stack=self.work.index, leader=name)))
        if self._own is not None:
            request.world.thief.offer(self._own)

    def asked(self, host: str) -> None:
        """An idle host asks for a tile; if it has been told meanwhile that there are none, it knows."""
        if host in self._told:
            return
        request, name = self._request, self._request.world.name

        def send(payloads: tuple[Payload, ...], deal: Deal[Payload]) -> None:
            fields = request.fields(
                stack=self.work.index,
                tile=deal.tile,
                leader=name,
                given=[_plain(v, box) for v, box in deal.region.used],
                keep=[_plain(keep.vertex, keep.box) for keep in deal.keep],
            )
            request.post(host, Message("tile", fields, payloads))

        self._deal(host, send)
        self._tell()

    def returned(self, host: str, stack: int, tile: int, payloads: Sequence[Payload]) -> Payload:
        """A tile is back. Raises ProtocolError unless this host was given it, and it fits."""
        holder, deal, fetched = self._flying.get(tile, ("", None, None))
        if stack != self.work.index or deal is None or fetched is None or holder != host:
            raise ProtocolError(f"{self._request.world.name} does not wait for tile {tile!r} of stack {stack!r} from {host}")
        if len(payloads) != 1 + len(fetched.kept):
            raise ProtocolError(
                f"tile {tile} of stack {stack} came with {len(payloads) - 1} parts instead of {len(fetched.kept)}"
            )
        for payload, expected in zip(payloads, (fetched.output, *fetched.kept), strict=True):
            check_like(payload, expected, f"tile {tile} of stack {stack}")
        del self._flying[tile]
        self._pool.returned(deal, payloads[1:])
        return payloads[0]

    def _deal(self, host: str, send: Callable[[tuple[Payload, ...], Deal[Payload]], None]) -> Fetched | None:
        deal = self._pool.take(host)
        if deal is None:
            return None
        request = self._request
        sizes, numerics = request.epoch.sizes, request.epoch.numerics
        fetched = Fetched.of(self.work, sizes, deal.tile, deal.region, [(keep.vertex, keep.box) for keep in deal.keep])
        self._flying[deal.tile] = host, deal, fetched
        if numerics is None:
            send(fetched_payloads(sizes, deal.region), deal)
            return fetched

        try:  # at once: it is a copy of the tile, and in line with other work a thief would wait for the leader's own tile
            payloads = numerics.cut_partial(deal.region, self._inputs, deal.given)
        except NodeError as error:
            request.broken(error)
            return fetched
        send(payloads, deal)
        return fetched

    def _take_own(self) -> None:
        request, own = self._request, self._own
        assert own is not None

        def send(payloads: tuple[Payload, ...], deal: Deal[Payload]) -> None:
            _, _, fetched = self._flying[deal.tile]

            def done(output: Payload, kept: list[Payload]) -> None:
                self._pool.returned(self._flying.pop(deal.tile)[1], kept)
                request.world.thief.done(own)
                self._gather(deal.tile, output)

            fetched.compute(request, payloads, done)

        own.working = True
        if self._deal(request.world.name, send) is None:
            own.working = False
            request.world.thief.withdraw(own)
        self._tell()

    def _tell(self) -> None:
        """Hosts for which nothing is left need not ask again."""
        request, name = self._request, self._request.world.name
        for host in self.helpers:
            if host not in self._told and not self._pool.has(host):
                self._told.add(host)
                request.post(host, Message("over", request.fields(stack=self.work.index, leader=name)))
        if self._own is not None and not self._pool.has(name):
            request.world.thief.withdraw(self._own)


def fetched_payloads(sizes: Sizes, region: PartialRegion) -> tuple[Payload, ...]:
    """Shapes of what a host fetches for a tile: read regions by ascending vertex, then the given parts."""
    read = [sizes.region(u, box) for u, box in sorted(region.read.items())]
    return *read, *(sizes.region(v, box) for v, box in region.used)


def _plain(vertex: int, box: Box) -> list[int]:
    return [vertex, box[0][0], box[0][1], box[1][0], box[1][1]]


def _boxes(raw: Any) -> tuple[tuple[int, Box], ...]:
    """Raises ProtocolError for anything but a list of [vertex, top, bottom, left, right]."""
    try:
        found = tuple((v, ((top, bottom), (left, right))) for v, top, bottom, left, right in raw)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"not a list of boxes: {raw!r}") from error
    if any(not isinstance(number, int) for row in raw for number in row):
        raise ProtocolError("boxes are whole numbers")
    return found


def _outside(box: Box, of: Box) -> bool:
    return any(inner[0] < outer[0] or inner[1] > outer[1] for inner, outer in zip(box, of, strict=True))
