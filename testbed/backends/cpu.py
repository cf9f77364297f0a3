"""How idle this machine was: the smallest and the mean share of idle CPU time over whole seconds.

Mininet-HiFi's first invariant (Handigol et al., CoNEXT 2012): where no second lacks idle time, no emulated host was starved.
"""

from __future__ import annotations

import time
from pathlib import Path

PERIOD_S = 1.0


class IdleSampler:
    """Call `sample` often (it looks at the clock itself) once `start` was called; shares are None until a second has passed."""

    def __init__(self) -> None:
        self._next = 0.0
        self._last = (0, 0)
        self._shares: list[float] = []

    @property
    def minimum(self) -> float | None:
        """Idle share of the busiest second."""
        return min(self._shares, default=None)

    @property
    def mean(self) -> float | None:
        """Mean idle share."""
        return sum(self._shares) / len(self._shares) if self._shares else None

    def start(self) -> None:
        """Begin the first second now."""
        self._last = ticks()
        self._next = time.monotonic() + PERIOD_S

    def due_s(self) -> float:
        """Seconds until the next sample is due."""
        return max(0.0, self._next - time.monotonic())

    def sample(self) -> None:
        """Take a sample if one is due."""
        now = time.monotonic()
        if now < self._next:
            return
        idle, total = ticks()
        if total > self._last[1]:
            self._shares.append((idle - self._last[0]) / (total - self._last[1]))
        self._last = (idle, total)
        self._next = now + PERIOD_S


def ticks(path: Path = Path("/proc/stat")) -> tuple[int, int]:
    """(idle, total) clock ticks of all CPUs since boot; waiting for a disk counts as idle."""
    fields = [int(field) for field in path.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)
