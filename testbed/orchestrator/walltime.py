"""Wall-clock facts about a run: how long planning took, when the run began, whether its time is up.

The only file of the orchestrator that asks the machine for time; everything that is part of the experiment asks the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """What times are taken with; replaced where the machine's clocks are not those on the wall."""

    now: Callable[[], float] = time.perf_counter


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Result of a call, and the wall-clock seconds it took."""
    start = Stopwatch.now()
    result = call()
    return result, Stopwatch.now() - start


def now_utc() -> str:
    """Date and time, for manifests."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def wall_s() -> float:
    """Seconds of the machine's clock (CLOCK_REALTIME), which every process of it shares."""
    return time.time()


class WallLimit:
    """True once more wall-clock seconds have passed than a run may take (never, for None)."""

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._end = None if limit_s is None else time.monotonic() + limit_s

    def passed(self) -> bool:
        """Whether the time is up."""
        return self._end is not None and time.monotonic() > self._end
