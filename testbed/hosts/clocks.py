"""Clocks of other machines against the orchestrator's: their offsets, how sure those are, and times brought to one clock.

An exchange is NTP's (RFC 5905): sent here, received there, answered there, received here. Its offset is wrong by at most half of
the time that it was under way, so that of several exchanges the quickest counts. Between two measurements an offset is
interpolated, after the last one extrapolated by what it has drifted.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from d3node.channel import Channel, Message
from d3node.errors import ProtocolError
from testbed.errors import AgentError

EXCHANGES = 16
"""Of one measurement; the quickest of them counts."""
PAUSE_S = 0.005
"""Between exchanges, so that not all of them meet the same queue."""
PATIENCE_S = 10.0
LONG_S = 5.0
"""Measurements this far apart tell a drift; closer ones differ by their own uncertainty."""
JUMP_S = 1.0
"""No running clock moves so far against another one between two measurements."""
CRYSTAL = 100e-6
"""How far a machine's clock may drift in a second: the usual bound of a computer's crystal."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One exchange, in seconds: `sent` and `received` by our clock, `arrived` and `answered` by the other's."""

    sent: float
    arrived: float
    answered: float
    received: float

    @property
    def round_trip_s(self) -> float:
        """Seconds that it was under way, without those at the other end."""
        return max(0.0, (self.received - self.sent) - (self.answered - self.arrived))

    @property
    def offset_s(self) -> float:
        """The other clock minus ours."""
        return ((self.arrived - self.sent) + (self.answered - self.received)) / 2.0


@dataclass(frozen=True, slots=True)
class Measured:
    """An offset at a moment of our clock: the other clock minus ours, give or take `uncertainty_s`."""

    at: float
    offset_s: float
    uncertainty_s: float
    round_trip_s: float


def quickest(exchanges: Sequence[Exchange]) -> Measured:
    """What several exchanges say: the one that was least under way."""
    best = min(exchanges, key=lambda exchange: exchange.round_trip_s)
    return Measured((best.sent + best.received) / 2.0, best.offset_s, best.round_trip_s / 2.0, best.round_trip_s)


@dataclass
class HostClock:
    """One host's clock by its measurements, in the order in which they were made."""

    measured: list[Measured] = field(default_factory=list)
    _there: list[float] = field(default_factory=list)

    def add(self, found: Measured) -> None:
        """Take a later measurement in. One far from the last means that the machine has started anew: what was is forgotten."""
        if self.measured and abs(found.offset_s - self.measured[-1].offset_s) > JUMP_S:
            self.measured.clear()
            self._there.clear()
        self.measured.append(found)
        self._there.append(found.at + found.offset_s)

    def here(self, there: float) -> float:
        """A time of the host's clock by ours. Between measurements the offset goes from one to the next in a straight line."""
        place = bisect.bisect(self._there, there)
        if place == 0:
            return there - self.measured[0].offset_s
        before = self.measured[place - 1]
        since = there - self._there[place - 1]
        if place == len(self.measured):
            return there - before.offset_s - self.drift * since
        after = self.measured[place]
        share = since / (self._there[place] - self._there[place - 1])
        return there - before.offset_s - share * (after.offset_s - before.offset_s)

    @property
    def drift(self) -> float:
        """Seconds that it gains on ours in a second; 0 while the measurements are too close together to tell, and never more
        than a crystal can: what goes beyond that was measured badly."""
        first, last = self.measured[0], self.measured[-1]
        if last.at - first.at < LONG_S:
            return 0.0
        return max(-CRYSTAL, min(CRYSTAL, (last.offset_s - first.offset_s) / (last.at - first.at)))

    @property
    def uncertainty_s(self) -> float:
        """By how much a time brought to our clock may be wrong at worst: the worst measurement, and half of what the clock moved
        between two of them beyond an even drift."""
        worst = max(found.uncertainty_s for found in self.measured)
        bends = [0.0]
        for before, after in zip(self.measured, self.measured[1:], strict=False):
            bends.append(abs(after.offset_s - before.offset_s - self.drift * (after.at - before.at)))
        return worst + max(bends) / 2.0

    def facts(self) -> dict[str, float | int]:
        """For a manifest."""
        first, last = self.measured[0], self.measured[-1]
        return {
            "offset_s": first.offset_s,
            "offset_at_end_s": last.offset_s,
            "drift_ppm": self.drift * 1e6,
            "round_trip_s": min(found.round_trip_s for found in self.measured),
            "uncertainty_s": self.uncertainty_s,
            "measurements": len(self.measured),
        }


class Asker(Protocol):
    """Something that asks an agent and waits for the reply."""

    async def ask(self, kind: str, **fields: object) -> Message: ...


class Line:
    """A control channel on which one thing is asked at a time: for clocks, facts, probes and shaping. Not a run's own."""

    def __init__(self, host: str, channel: Channel) -> None:
        self.host = host
        self._channel = channel
        self._ids = count(1)
        self._lock = asyncio.Lock()

    async def ask(self, kind: str, **fields: object) -> Message:
        """Ask and wait. Raises AgentError (refused, or no answer in good time) and ChannelError."""
        async with self._lock:
            number = next(self._ids)
            try:
                async with asyncio.timeout(float(str(fields.pop("patience_s", PATIENCE_S)))):
                    await self._channel.send(Message(kind, {"id": number, **fields}))
                    while True:
                        reply = await self._channel.receive()
                        if reply.kind in ("ok", "refused") and reply.fields.get("id") in (number, 0):
                            break
            except TimeoutError as error:
                raise AgentError(f"agent {self.host} did not answer {kind!r} in good time") from error
        if reply.kind == "refused":
            raise AgentError(f"agent {self.host} refused {kind!r}: {reply.fields.get('error')}: {reply.fields.get('text')}")
        return reply

    async def close(self) -> None:
        """End the connection; the agent stays."""
        await self._channel.close()


async def measure(line: Asker, exchanges: int = EXCHANGES) -> Measured:
    """The offset of an agent's clock. Raises AgentError, ChannelError."""
    loop = asyncio.get_running_loop()
    found = []
    for turn in range(exchanges):
        if turn:
            await asyncio.sleep(PAUSE_S)
        sent = loop.time()
        reply = await line.ask("clock")
        if reply.transfer is None or not isinstance(reply.fields.get("received_at"), float):
            raise ProtocolError("an agent's answer to 'clock' has no times")
        found.append(Exchange(sent, reply.fields["received_at"], reply.transfer.sent_at, reply.transfer.received_at))
    return quickest(found)
