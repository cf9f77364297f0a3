"""What every host keeps of a request, whatever its part in it: records, bytes, and how much of it is still being sent.

The parts are `d3node.execute` (the host that leads a tier), `d3node.origin` (the device that asks) and `d3node.hand` (a host that
computes tiles for another). A request ends exactly once on each.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from d3node.channel import Message, Payload
from d3node.compute import ComputeQueue, Job
from d3node.errors import ComputeError, ProtocolError
from d3node.handover import Halo
from d3node.install import Epoch
from d3node.kept import Kept
from d3node.links import Sender
from d3node.stealing import Thief

Key = tuple[int, int | str]
"""(epoch, request)."""


class World(Protocol):
    """What a request needs from its agent."""

    name: str
    loop: asyncio.AbstractEventLoop
    compute: ComputeQueue
    modelled: bool
    recovery: bool
    thief: Thief
    kept: Kept

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


def halo_message(request: Request, halo: Halo, leader: str, payload: Payload) -> Message:
    """A halo on its way."""
    stack, tile = halo.place
    return Message("halo", request.fields(stack=stack, tile=tile, leader=leader, to=halo.target), (payload,))
