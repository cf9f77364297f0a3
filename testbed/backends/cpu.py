"""Shares of whole seconds: how idle this machine was, and how much of its time a process wanted to run.

Mininet-HiFi's first invariant (Handigol et al., CoNEXT 2012): where no second lacks idle time, no emulated host was starved. A
switch that is one process can be too slow all the same, on a machine with many CPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PERIOD_S = 1.0


class ShareSampler:
    """Call `sample` often (it looks at the clock itself) once `start` was called; shares are None until a second has passed.

    `read`: a count and what it is a share of; both grow, and a second in which the latter does not is passed over.
    """

    def __init__(self, read: Callable[[], tuple[int, int]]) -> None:
        self._read = read
        self._next = 0.0
        self._last = (0, 0)
        self._shares: list[float] = []

    @property
    def minimum(self) -> float | None:
        """Share of the second that had least."""
        return min(self._shares, default=None)

    @property
    def maximum(self) -> float | None:
        """Share of the second that had most."""
        return max(self._shares, default=None)

    def start(self) -> None:
        """Begin the first second now."""
        self._last = self._read()
        self._next = time.monotonic() + PERIOD_S

    def due_s(self) -> float:
        """Seconds until the next sample is due."""
        return max(0.0, self._next - time.monotonic())

    def sample(self) -> None:
        """Take a sample if one is due."""
        now = time.monotonic()
        if now < self._next:
            return
        part, whole = self._read()
        if whole > self._last[1]:
            self._shares.append((part - self._last[0]) / (whole - self._last[1]))
        self._last = (part, whole)
        self._next = now + PERIOD_S


def ticks(path: Path = Path("/proc/stat")) -> tuple[int, int]:
    """(idle, total) clock ticks of all CPUs since boot; waiting for a disk counts as idle."""
    fields = [int(field) for field in path.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def wanted(pid: int) -> tuple[int, int]:
    """Nanoseconds in which a process's first thread ran or waited for a CPU, and now; (0, 0) once it has ended."""
    try:
        ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()
    except OSError:
        return 0, 0
    return int(ran) + int(waited), time.monotonic_ns()
