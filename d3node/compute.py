"""A host as a single server: one computation at a time, the requests first come first served.

A request of several steps keeps its place: a step that becomes ready goes before those of requests that came to this host later.
Were the steps themselves served as they come, requests would finish together and late, and a busy host would hold many halves.

Takes time in the two ways of DESIGN.md ("modelled": until the given seconds at the current CPU share have passed; "measured": as
long as the work itself). What a computation is, and what follows from it, is the caller's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any, Protocol


class Owner(Protocol):
    """Whose work it is; the work of an ended owner is not started. `created`: when this host first heard of it."""

    ended: bool

    @property
    def created(self) -> float: ...


@dataclass(slots=True)
class Job:
    """One computation. `seconds`: modelled time at share 1, None when measured. `run`: the real work, None with sizes only.
    `counted` False: not a computation at all, but somebody who waits for the host to be idle.

    After it: `start`, `end`, `queued_s`, `overrun_s` (how much longer than modelled the real work took), `result` or `error`.
    """

    owner: Owner
    seconds: float | None
    run: Callable[[], Any] | None
    done: Callable[[Job], None]
    label: Any = None
    counted: bool = True
    queued_at: float = 0.0
    start: float = 0.0
    end: float = 0.0
    overrun_s: float = 0.0
    result: Any = None
    error: BaseException | None = None

    @property
    def queued_s(self) -> float:
        """Seconds between being ready and being started."""
        return self.start - self.queued_at


@dataclass(slots=True)
class ComputeTotals:
    """What a host has computed since its start; `late_s` are samples of how late the event loop ran its timers."""

    jobs: int = 0
    busy_s: float = 0.0
    overruns: int = 0
    overrun_s: float = 0.0
    max_overrun_s: float = 0.0
    late_s: deque[float] = field(default_factory=lambda: deque(maxlen=4096))


class ComputeQueue:
    """The single server. `executor` None: real work runs inline, on the event loop (virtual time)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, executor: Executor | None) -> None:
        self.totals = ComputeTotals()
        self._loop = loop
        self._executor = executor
        self._waiting: list[tuple[float, int, Job]] = []
        self._numbers = count()
        self._job: Job | None = None
        self._working = False
        self._share = 1.0
        self._left = 0.0
        self._at = 0.0
        self._timer: asyncio.Handle | None = None
        self._closed = False

    def submit(self, job: Job) -> None:
        """Queue a computation; `job.done(job)` is called when it is over, unless its owner ended before it began."""
        job.queued_at = self._loop.time()
        heappush(self._waiting, (job.owner.created, next(self._numbers), job))
        if self._job is None:
            self._next()

    def set_share(self, share: float) -> None:
        """Change the free share of the CPU from now on, for the running computation too. 0 stops modelled time."""
        self._advance()
        self._share = share
        if self._job is not None and not self._working:
            self._arm()

    def offload(self, run: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Real work that is not modelled (cutting and joining tensors): at once inline, else behind the executor's work."""
        if self._executor is None:
            result, error = _attempt(run)
            done(result, error)
            return
        future = self._loop.run_in_executor(self._executor, _attempt, run)

        def finish(finished: asyncio.Future[tuple[Any, BaseException | None]]) -> None:
            if not self._closed and not finished.cancelled():
                done(*finished.result())

        future.add_done_callback(finish)

    def close(self) -> None:
        """Forget everything; nothing is called back any more."""
        self._closed = True
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    @property
    def length(self) -> int:
        """Computations running and waiting."""
        return len(self._waiting) + (self._job is not None)

    def _next(self) -> None:
        while self._waiting and self._job is None:
            job = heappop(self._waiting)[2]
            if not job.owner.ended:
                self._start(job)

    def _start(self, job: Job) -> None:
        self._job = job
        job.start = self._at = self._loop.time()
        self._left = job.seconds or 0.0
        if job.run is None:
            self._arm()
        elif self._executor is None:
            job.result, job.error = _attempt(job.run)
            self._arm()
        else:
            self._working = True
            future = self._loop.run_in_executor(self._executor, _attempt, job.run)
            future.add_done_callback(self._worked)

    def _worked(self, future: asyncio.Future[tuple[Any, BaseException | None]]) -> None:
        job = self._job
        if self._closed or job is None or future.cancelled():
            return
        self._working = False
        job.result, job.error = future.result()
        self._advance()
        if job.seconds is not None and self._left < 0.0 and job.error is None:
            job.overrun_s = -self._left / self._share if self._share > 0.0 else 0.0
        if self._left > 0.0 and job.error is None:
            self._arm()
        else:
            self._finish(None)

    def _advance(self) -> None:
        """Take the time since the last look off the running computation's modelled rest."""
        now = self._loop.time()
        if self._job is not None:
            self._left -= (now - self._at) * self._share
        self._at = now

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._left <= 0.0:
            self._timer = self._loop.call_soon(self._finish, None)
        elif self._share > 0.0:
            due = self._at + self._left / self._share
            self._timer = self._loop.call_at(due, self._finish, due)

    def _finish(self, due: float | None) -> None:
        job = self._job
        if self._closed or job is None:
            return
        self._job = self._timer = None
        job.end = self._loop.time()
        totals = self.totals
        totals.jobs += job.counted
        totals.busy_s += job.end - job.start
        if due is not None:
            totals.late_s.append(job.end - due)
        if job.overrun_s > 0.0:
            totals.overruns += 1
            totals.overrun_s += job.overrun_s
            totals.max_overrun_s = max(totals.max_overrun_s, job.overrun_s)
        job.done(job)
        if self._job is None:
            self._next()


def _attempt(run: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return run(), None
    except Exception as error:
        return None, error
