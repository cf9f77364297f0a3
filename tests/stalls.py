"""How long a machine with other work held up a test on the real clock: the allowance that its upper bounds are given.

Where a network does what it is told, a message is late for one of these reasons only, and each is measured: the machine as a
whole stood still (others on its hardware, a throttled or paused guest), which a process that sleeps for moments on every CPU
sees; the kernel's thread for network work waited for a CPU; a process at one of the message's two ends did. Lower bounds need
no allowance: no stall makes a link faster. `python tests/stalls.py CPU` is such a sleeper.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from processes import descendants

NAP_S = 0.002
WAKE_S = 0.0005
"""What waking up takes on an idle machine, amply; only more is a stall."""
ENDS = 2
CALM_S, JUDGES = 0.1, 2
"""An attempt in which nothing stalled for longer is a calm one; so many calm ones outvote all others."""

WINDOW_S, FRAME = 0.15, 1514
Readings = list[tuple[float, int, float]]
"""Of a counter: the clock before, bytes, the clock after."""

PROC = Path("/proc")


@dataclass(frozen=True)
class Attempt:
    """What came of a test (None: passed), and for how long the machine stalled in it."""

    error: Exception | None
    stalled_s: float


def verdict(attempts: Sequence[Attempt]) -> Exception | None:
    """None if any attempt that counts passed: calm ones, where there are enough of them, else all."""
    calm = [attempt for attempt in attempts if attempt.stalled_s <= CALM_S]
    counting = calm if len(calm) >= JUDGES else attempts
    errors = [attempt.error for attempt in counting if attempt.error is not None]
    return errors[-1] if len(errors) == len(counting) else None


def settled(attempts: Sequence[Attempt]) -> bool:
    """Whether a calm attempt has passed, so that no further one is needed."""
    return any(attempt.error is None and attempt.stalled_s <= CALM_S for attempt in attempts)


def carried_over_allowed(rate_bps: float, readings: Readings) -> tuple[float, float]:
    """The greatest share that a busy link carried, between any two readings far enough apart, of what its rate allows: at least
    (in the time from before the first reading to after the second, without two frames that a reading may just catch) and at most
    (from after the first to before the second, with them). Stalls of the machine make single windows poor, but no window rich.
    """
    least = most = 0.0
    for (outer_a, bytes_a, inner_a), (inner_b, bytes_b, outer_b) in combinations(readings, 2):
        if inner_b - inner_a >= WINDOW_S:
            carried = bytes_b - bytes_a
            least = max(least, (carried - 2 * FRAME) * 8 / rate_bps / (outer_b - outer_a))
            most = max(most, (carried + 2 * FRAME) * 8 / rate_bps / (inner_b - inner_a))
    return least, most


class Stalls:
    """Measurements of stalls; see `watching`. `longest_s` is the greatest that any has found."""

    def __init__(self, sleepers: list[subprocess.Popen[str]]) -> None:
        self.longest_s = 0.0
        self._sleepers = sleepers
        self._kernel = [pid for pid, name in _names() if name.startswith("ksoftirqd/")]

    def begin(self) -> Callable[[], float]:
        """Measure from now on; call what is returned for the seconds that a message can have been held up since."""
        held, before = self._held(), self._waits()

        def seconds() -> float:
            still = max((now - then for now, then in zip(self._held(), held, strict=True)), default=0.0)
            after = self._waits()
            grown = {pid: waited - before.get(pid, 0.0) for pid, waited in after.items()}
            network = max((grown.pop(pid, 0.0) for pid in self._kernel), default=0.0)
            found = still + network + sum(sorted(grown.values())[-ENDS:])
            self.longest_s = max(self.longest_s, found)
            return found

        return seconds

    def _held(self) -> list[float]:
        """Seconds that each CPU stood still."""
        for sleeper in self._sleepers:
            assert sleeper.stdin is not None
            sleeper.stdin.write("\n")
            sleeper.stdin.flush()
        return [float(sleeper.stdout.readline()) for sleeper in self._sleepers if sleeper.stdout is not None]

    def _waits(self) -> dict[int, float]:
        """Seconds that this process's descendants and the kernel's threads have waited for a CPU, by process."""
        own = {sleeper.pid for sleeper in self._sleepers} | {os.getpid()}
        return {pid: _waited_s(pid) for pid in (*(descendants(os.getpid()) - own), *self._kernel)}


@contextmanager
def watching() -> Iterator[Stalls]:
    """Measure the machine's stalls as they concern the processes that this one starts."""
    sleepers = [
        subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, str(cpu)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for cpu in sorted(os.sched_getaffinity(0))
    ]
    try:
        yield Stalls(sleepers)
    finally:
        for sleeper in sleepers:
            sleeper.communicate()


def _names() -> Iterable[tuple[int, str]]:
    for entry in PROC.glob("[0-9]*/comm"):
        with suppress(OSError):
            yield int(entry.parent.name), entry.read_text()


def _waited_s(pid: int) -> float:
    """Seconds that a process's threads could run and had no CPU."""
    total = 0
    for task in (PROC / str(pid) / "task").glob("[0-9]*/schedstat"):
        with suppress(OSError, IndexError):
            total += int(task.read_text().split()[1])
    return total / 1e9


def _sleep_on(cpu: int) -> None:
    """Nap; answer every line with the seconds that naps took too long, without those in which this process waited for the CPU."""
    os.sched_setaffinity(0, {cpu})
    late, waited = 0.0, _waited_s(os.getpid())
    asked = select.poll()
    asked.register(0, select.POLLIN)
    while True:
        begun = time.monotonic()
        if not asked.poll(NAP_S * 1e3):
            over = time.monotonic() - begun - NAP_S - WAKE_S
            if over > 0.0:
                waiting = _waited_s(os.getpid())
                late += max(0.0, over - (waiting - waited))
                waited = waiting
        elif os.read(0, 4096):
            os.write(1, f"{late:.6f}\n".encode())
        else:
            return


if __name__ == "__main__":
    _sleep_on(int(sys.argv[1]))
