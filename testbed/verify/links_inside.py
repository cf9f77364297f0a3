"""Measures the matrix of `testbed.verify.links` on a started network: one message for each cell, warm and cold.

Runs where the network is (in the time-travel kernel as a job). Judging the figures is left to `testbed.verify.links`.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from testbed.backends.emulated_session import EmulatedSession
from testbed.backends.mininet import MininetBackend
from testbed.errors import RunError
from testbed.scenario.state import LinkState
from testbed.verify.bare import LINK, SOURCE, TARGET, BareGuest, scenario
from testbed.verify.flows import Connection
from testbed.verify.ideal import frames
from topologies.addresses import address

Emit = Callable[..., None]
Row = dict[str, Any]

QUEUE_MIB = 32
"""Queue of the measured link: more than any window of the matrix grows to, so that nothing is dropped."""

SETTLE_S = 0.3
"""Pause before every message, beside two round trips: acknowledgements are in, queues and token buckets as after a long rest."""

_WARM_UPS = 200
_SPARE = 1.2
"""A warm window holds this many times what the path holds, and eight segments more for acknowledgements that come in pairs."""


def network(rate_bps: float, delay_s: float, congestion: str = "cubic") -> Any:
    """The scenario that the matrix is measured on."""
    link = {"rate": f"{rate_bps:.0f} bit/s", "delay": f"{delay_s * 1e3:.9g} ms", "queue": f"{QUEUE_MIB} MiB"}
    return scenario(link, network={"congestion_control": congestion})


def guest(emit: Emit, **matrix: Any) -> dict[str, Any]:
    """The job of the time-travel kernel."""
    return measure(BareGuest({}), emit, **matrix)


def measure(
    backend: MininetBackend, emit: Emit, rates_bps: list[float], delays_s: list[float], sizes: list[int], rounds: int
) -> dict[str, Any]:
    """`rows` of every cell (seconds: the median of `rounds` messages), and `facts` of the network."""

    async def main(session: Any) -> dict[str, Any]:
        rows: list[Row] = []
        bench = _Bench(session, await session.namespaces())
        for rate in rates_bps:
            for delay in delays_s:
                await bench.set(rate, delay)
                rows += await bench.cold(sizes, rounds)
                rows += await bench.warm(sizes, rounds)
                emit(
                    "measured",
                    rate_bps=rate,
                    delay_s=delay,
                    done=len(rows),
                    total=2 * len(sizes) * len(rates_bps) * len(delays_s),
                )
        return {"rows": rows, "facts": session.describe()}

    return backend.run(network(rates_bps[0], delays_s[0]), main)


class _Bench:
    def __init__(self, session: EmulatedSession, namespaces: Mapping[str, Path]) -> None:
        self._session, self._namespaces = session, namespaces
        self._address = address(session.layout, TARGET, SOURCE)
        self._rate, self._delay = 0.0, 0.0

    async def set(self, rate_bps: float, delay_s: float) -> None:
        """Another rate and delay from now on, the same both ways."""
        self._rate, self._delay = rate_bps, delay_s
        for direction in ("up", "down"):
            await self._session.apply_link(LINK, direction, LinkState(rate_bps, delay_s))

    async def cold(self, sizes: Iterable[int], rounds: int) -> list[Row]:
        """Each message on a connection of its own, when its handshake is over."""
        rows = []
        for size in sizes:
            before = await self._drops()
            seconds, resent = [], 0
            for _ in range(rounds):
                connection = self._connect()
                await self._rest()
                seconds.append(connection.message(size))
                resent += connection.resent
                connection.close()
            rows.append(self._row("cold", size, seconds, 0, resent, await self._drops() - before))
        return rows

    async def warm(self, sizes: Iterable[int], rounds: int) -> list[Row]:
        """All messages on one connection, whose window holds more than the path does."""
        rows = []
        connection = self._connect()
        await self._open_window(connection)
        for size in sizes:
            before, resent = await self._drops(), connection.resent
            seconds = []
            for _ in range(rounds):
                await self._rest()
                seconds.append(connection.message(size))
            rows.append(
                self._row("warm", size, seconds, connection.window, connection.resent - resent, await self._drops() - before)
            )
        connection.close()
        return rows

    def _row(self, start: str, size: int, seconds: list[float], window: int, resent: int, drops: int) -> Row:
        return {
            "start": start,
            "rate_bps": self._rate,
            "delay_s": self._delay,
            "size_bytes": size,
            "measured_s": statistics.median(seconds),
            "window_segments": window,
            "resent_segments": resent,
            "dropped_frames": drops,
        }

    def _connect(self) -> Connection:
        return Connection.open(self._namespaces, SOURCE, TARGET, self._address, "cubic")

    async def _rest(self) -> None:
        await asyncio.sleep(SETTLE_S + 4.0 * self._delay)

    async def _drops(self) -> int:
        return sum(counters.drops for counters in (await self._session.counters()).values())

    async def _open_window(self, connection: Connection) -> None:
        """Send until the window is open: messages of at most 0.45 of what the path holds, because acknowledgements that go on for
        half a round trip end slow start (HyStart); then longer ones.

        Raises RunError if it stays too small."""
        holds = (self._rate * 2.0 * self._delay) / 8.0 / max(frames(10_000))
        wanted = math.ceil(_SPARE * holds) + 8
        for _ in range(_WARM_UPS):
            window = connection.window
            if window >= wanted:
                return
            segments = 0.45 * holds if window < 0.85 * holds else 2 * wanted
            connection.message(int(max(segments, 10) * 1448))
            await self._rest()
        raise RunError(f"a window of {connection.window} segments did not grow to {wanted} at {self._rate:g} bit/s")
