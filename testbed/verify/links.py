"""How exact a backend's links are: one message of each size at each rate and delay, against arithmetic (`testbed.verify.ideal`).

Messages on warm connections are held to limits; cold ones (a new connection's first message) are compared with a model of slow
start and reported. The measuring itself is in `testbed.verify.links_inside`, drawing in `testbed.verify.figures`.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.errors import BackendError, InputError
from testbed.kernel import cache, guest
from testbed.kernel.boot import Job
from testbed.scenario.state import LinkState
from testbed.verify import ideal
from testbed.verify.bare import FAST_BPS, BareMininet

RATES_BPS = (1e6, 10e6, 30e6, 100e6, 500e6)
DELAYS_S = (0.0, 0.005, 0.05)
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)

MEDIAN_LIMIT, WORST_LIMIT = 0.001, 0.005
"""Relative errors of warm messages that are allowed."""

REAL_ROUNDS = 5
"""Messages for each cell on a real clock, where any one of them may be held up; their median counts. In virtual time one does."""

GUEST_MIB = 2048

BACKENDS = ("vkernel", "mininet", "sim")
Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Cell:
    """One message: `start` "warm" or "cold", what it took and what it should have taken."""

    start: str
    rate_bps: float
    delay_s: float
    size_bytes: int
    measured_s: float
    ideal_s: float
    window_segments: int = 0
    resent_segments: int = 0
    dropped_frames: int = 0

    @property
    def error(self) -> float:
        """Relative, above 0 where the message was late."""
        return self.measured_s / self.ideal_s - 1.0


@dataclass(frozen=True)
class Matrix:
    """All cells, and facts of the backend for a manifest."""

    backend: str
    cells: tuple[Cell, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def of(self, start: str) -> list[Cell]:
        """The cells of one kind."""
        return [cell for cell in self.cells if cell.start == start]

    def median(self, start: str) -> float:
        """Median of the absolute relative errors."""
        return statistics.median(abs(cell.error) for cell in self.of(start))

    def worst(self, start: str) -> Cell:
        """The cell that is furthest off."""
        return max(self.of(start), key=lambda cell: abs(cell.error))

    @property
    def problems(self) -> list[str]:
        """What does not hold, in sentences; empty for links that are as exact as promised."""
        found = []
        if (median := self.median("warm")) > MEDIAN_LIMIT:
            found.append(f"the median error of warm messages is {median:.3%}, above {MEDIAN_LIMIT:.1%}")
        late = [cell for cell in self.of("warm") if abs(cell.error) > WORST_LIMIT]
        if late:
            found.append(
                f"{len(late)} warm messages are off by more than {WORST_LIMIT:.1%}, the worst by {self.worst('warm').error:+.2%}"
            )
        if lost := sum(cell.dropped_frames + cell.resent_segments for cell in self.cells):
            found.append(f"{lost} frames were dropped or sent again although no link was asked to lose any")
        return found


def run(
    backend: str = "vkernel",
    rates_bps: Sequence[float] = RATES_BPS,
    delays_s: Sequence[float] = DELAYS_S,
    sizes: Sequence[int] = SIZES,
    listener: Listener | None = None,
) -> Matrix:
    """Measure the matrix on a backend, in one boot. Raises InputError for an empty matrix, BackendError if it cannot be run."""
    if not (rates_bps and delays_s and sizes):
        raise InputError("the matrix is empty: it needs a rate, a delay and a size at least")
    if min(rates_bps) < 1e5 or min(sizes) < 1:
        raise InputError("the matrix needs rates of 100 kbit/s and more, and messages of a byte and more")
    listen = listener or (lambda _event: None)
    found: dict[str, Any]
    matrix: dict[str, Any] = {
        "rates_bps": [*map(float, rates_bps)],
        "delays_s": [*map(float, delays_s)],
        "sizes": [*map(int, sizes)],
    }
    if backend == "sim":
        from testbed.verify import links_sim

        found = {"rows": links_sim.measure(**matrix), "facts": {"backend": "sim"}}
    elif backend == "mininet":
        from testbed.verify import links_inside

        found = links_inside.measure(
            BareMininet(), lambda name, **fields: listen({"event": name, **fields}), **matrix, rounds=REAL_ROUNDS
        )
    elif backend == "vkernel":
        outcome = guest.run(
            installed(), Job("testbed.verify.links_inside:guest", {**matrix, "rounds": 1}, memory_mib=GUEST_MIB), listen
        )
        found = {**outcome.result, "facts": {**outcome.result["facts"], "guest": outcome.facts}}
    else:
        raise InputError(f"links cannot be measured on backend {backend!r}; on these they can: {', '.join(BACKENDS)}")
    return Matrix(backend, tuple(Cell(**row, ideal_s=_ideal_s(row)) for row in found["rows"]), found["facts"])


def installed() -> cache.Kernel:
    """The time-travel kernel. Raises BackendError where there is none."""
    kernel = cache.installed()
    if kernel is None:
        raise BackendError("the time-travel kernel is not built: testbed kernel build (some minutes, once)")
    return kernel


def _ideal_s(row: dict[str, Any]) -> float:
    fast = LinkState(FAST_BPS)
    path = (fast, LinkState(row["rate_bps"], row["delay_s"]), fast)
    return ideal.warm_s(row["size_bytes"], path) if row["start"] == "warm" else ideal.cold_s(row["size_bytes"], path, path)


def write_csv(matrix: Matrix, path: Path) -> None:
    """One line for each cell; seconds, bytes, and the relative error."""
    names = (*Cell.__dataclass_fields__, "error")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for cell in matrix.cells:
            writer.writerow(
                f"{value:.9g}" if isinstance(value, float) else value for value in (getattr(cell, name) for name in names)
            )
