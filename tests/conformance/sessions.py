"""What checks need of a started session: its agents, timed transfers, patience, and what a backend may be off by."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from conformance.scenario import scenario
from d3node.channel import Message
from testbed.backends.base import Session
from testbed.orchestrator.control import Fleet
from testbed.scenario.schema import Scenario

PATIENCE_S = 60.0
"""For what must come about, on a real clock and a machine with other work."""


def punctual() -> Callable[[], float]:
    """The stalls of a virtual clock: none."""
    return lambda: 0.0


@dataclass(frozen=True)
class Tolerance:
    """What a backend may be off by, as shares: `small` for messages below 100 kB, `transfer` from there on, `share` between
    streams that compete. `settle_s`: how long until sent bytes are counted and links are quiet. `delays`: False where the
    session's links have no delay (see `scenario.scenario`). `attempts`: a real machine has other work, which may hold up any one
    transfer; the closest of so many counts. `longest_s`: transfers that would take longer by the link's rate are left out.
    `stalls`: begins a measurement of what the machine holds up, and gives the function that ends it (see `stalls.Stalls`): so
    many seconds anything may be later, and nothing may be earlier."""

    small: float
    transfer: float
    share: float
    settle_s: float
    delays: bool = True
    attempts: int = 1
    longest_s: float = math.inf
    stalls: Callable[[], Callable[[], float]] = punctual

    def delay_s(self, seconds: float) -> float:
        """A delay of the scenario as the session has it."""
        return seconds if self.delays else 0.0


Check = Callable[[Session, Tolerance], Awaitable[None]]


@asynccontextmanager
async def fleet_of(session: Session, asked: Scenario | None = None) -> AsyncIterator[Fleet]:
    """The session's agents, connected and configured; everything that they push is in `pushed`."""
    fleet = Fleet(session)
    pushed: list[tuple[str, Message]] = []
    fleet.on_push = lambda host, message: pushed.append((host, message))
    fleet.pushed = pushed  # type: ignore[attr-defined]
    try:
        await fleet.open(asked or scenario())
        yield fleet
    finally:
        await fleet.close()


class Probe(NamedTuple):
    """Seconds that a message took one way, its bytes, and when it was begun by the session's clock."""

    seconds: float
    sent: int
    begun: float


async def probe(fleet: Fleet, source: str, target: str, size: int) -> Probe:
    """One message of about `size` bytes."""
    fields = (await fleet.clients[source].call("probe", {"peer": target, "size": size})).fields
    return Probe(fields["one_way_s"], fields["bytes"], fields["end"] - fields["one_way_s"])


def assert_takes(seconds: float, soonest: float, latest: float, share: float, stalled_s: float) -> None:
    """Between the soonest and the latest that the links allow, give or take a share; later only by what the machine stalled."""
    assert soonest * (1.0 - share) <= seconds <= latest * (1.0 + share) + stalled_s, (
        f"took {seconds:.4f} s; the links allow {soonest:.4f} to {latest:.4f} s, and the machine stalled for {stalled_s:.4f} s"
    )


async def warm(fleet: Fleet, source: str, target: str) -> None:
    """Open a connection's window beyond what its path holds."""
    for _ in range(2):
        await probe(fleet, source, target, 400_000)


async def until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait for a condition that messages bring about. Raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


async def refused(session: Session, host: str) -> None:
    """Use a control channel to a host whose agent is gone, which must fail."""
    channel = await session.control(host)
    try:
        await channel.send(Message("stats", {"id": 1}))
        await channel.receive()
    finally:
        channel.abort()
