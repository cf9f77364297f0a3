"""Event loops with other clocks: `VirtualLoop` jumps to the next timer instead of waiting, `ScaledLoop` runs k times slower.

Code under them is ordinary asyncio that asks only the loop for time; what travels between hosts is the backends' business.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import select
import selectors
import sys
import threading
import time
from asyncio import BaseEventLoop, Future, Handle, TimerHandle
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, TypeVar

from d3node.errors import ClockError

T = TypeVar("T")

STUCK_AFTER = 1_000_000
"""Rounds of callbacks at one moment of virtual time after which a loop counts as stuck (somebody polls instead of waiting)."""

OWNER: ContextVar[str] = ContextVar("owner")
"""Whose process a task would be, were it not simulated: what runs in a context with an owner can be made to stand still."""

_PURGE_FROM = 512
"""Timers below which cancelled ones are left in the heap until their time comes."""


class VirtualLoop(BaseEventLoop):
    """An asyncio event loop in virtual time: callbacks take none of it, and when none is ready the clock jumps to the next timer.

    Deterministic: callbacks run in the order in which they were scheduled, timers by time and then by that order. No sockets,
    pipes or subprocesses; `run_in_executor` runs the function at once, in this thread. Time starts at 0.0.
    Raises ClockError when nothing is ready nor scheduled while the awaited future is not done, and when time stands still.
    """

    _ready: deque[_Soon]
    _closed: bool
    _stopping: bool
    _timer_cancelled_count: int

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._order = count()
        self._owner = threading.get_ident()
        self._halted: dict[str, deque[_Soon]] = {}
        # Both are called for every future, and need no Python for it; asyncio's debug mode does not exist in virtual time.
        self.get_debug = bool  # type: ignore[method-assign]
        self.create_future = partial(Future, loop=self)  # type: ignore[method-assign]

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        """Run a callback at this moment, after those already scheduled for it."""
        if self._closed:
            raise RuntimeError("Event loop is closed")
        handle = _Soon(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        """As `call_soon`; from another thread it raises ClockError, because virtual time cannot wait for threads."""
        if threading.get_ident() != self._owner:
            raise ClockError("virtual time has one thread: compute inline (run_in_executor does) instead of in a thread")
        return self.call_soon(callback, *args, context=context)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> TimerHandle:  # type: ignore[override]
        """Run a callback after `delay` virtual seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> TimerHandle:  # type: ignore[override]
        """Run a callback at a moment of virtual time (at once if it is past)."""
        if self._closed:
            raise RuntimeError("Event loop is closed")
        timer = _Timer(when, callback, args, self, context)
        heappush(self._timers, (when, next(self._order), timer))
        return timer

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> Future[T]:  # type: ignore[override]
        """Run a function at once, in this thread and in no virtual time; the future is done when this returns."""
        future: Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Forget every timer and close the loop."""
        super().close()
        self._timers.clear()

    def halt(self, owner: str) -> None:
        """Let nothing of this `OWNER` run from now on, as SIGSTOP does with a process: timers and futures that come due wait."""
        self._halted.setdefault(owner, deque())

    def go_on(self, owner: str) -> None:
        """Run what has come due in the meantime, in that order, and all that follows."""
        self._ready.extend(self._halted.pop(owner, ()))

    def halted(self, owner: str) -> bool:
        """Whether an owner stands still."""
        return owner in self._halted

    def _set_aside(self) -> None:
        """Leave only what may run now among the ready callbacks."""
        ready = [*self._ready]
        self._ready.clear()
        for handle in ready:
            self._halted.get(handle._context.get(OWNER, ""), self._ready).append(handle)

    def _run_once(self) -> None:
        """Run callbacks, and advance the clock whenever there are none, until the loop is stopped."""
        ready = self._ready
        rounds = 0
        while True:
            if self._halted:
                self._set_aside()
            if not ready:
                if self._stopping:
                    return
                self._advance()
                rounds = 0
                if self._halted:
                    continue
            elif rounds > STUCK_AFTER:
                raise ClockError(
                    f"virtual time stands still at {self._now:.6f} s: a task polls instead of waiting\n{self._pending()}"
                )
            rounds += 1
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:
                    try:
                        handle._context.run(handle._callback, *handle._args)
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:
                        what = f"Exception in callback {handle!r}"
                        self.call_exception_handler({"message": what, "exception": error, "handle": handle})
            if self._stopping:
                return

    def _advance(self) -> None:
        """Move the clock to the next timer, and every timer of that moment to the ready callbacks."""
        timers = self._timers
        if self._timer_cancelled_count > _PURGE_FROM and 2 * self._timer_cancelled_count > len(timers):
            timers[:] = [entry for entry in timers if not entry[2]._cancelled]
            heapify(timers)
            self._timer_cancelled_count = 0
        ready = self._ready
        while timers:
            when, _, timer = heappop(timers)
            if timer._cancelled:
                self._timer_cancelled_count -= 1
                continue
            timer._scheduled = False
            if when > self._now:
                self._now = when
            ready.append(timer)
            while timers and timers[0][0] <= when:
                timer = heappop(timers)[2]
                if timer._cancelled:
                    self._timer_cancelled_count -= 1
                else:
                    timer._scheduled = False
                    ready.append(timer)
            return
        raise ClockError(
            f"deadlock at {self._now:.6f} s of virtual time: nothing is scheduled, and somebody still waits\n{self._pending()}"
        )

    def _pending(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: (len(task.get_name()), task.get_name()))
        return "\n".join(f"  {task.get_name()}: {_where(task)}" for task in tasks) or "  (no task is pending)"


class _Soon(Handle):
    """asyncio's handle without its debug mode: whole runs of the simulator are made of these."""

    __slots__ = ()
    _repr = _source_traceback = None

    def __init__(self, callback: Any, args: Any, loop: VirtualLoop, context: Context | None) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False


class _Timer(_Soon, TimerHandle):
    """The same for a moment of virtual time."""

    __slots__ = ()

    def __init__(self, when: float, callback: Any, args: Any, loop: VirtualLoop, context: Context | None) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._when = when
        self._scheduled = True


def _where(task: asyncio.Task[Any]) -> str:
    """The innermost line of Python that a task waits in."""
    frames = task.get_stack()
    coroutine: Any = task.get_coro()
    frame = frames[-1] if frames else None
    while (awaited := getattr(coroutine, "cr_await", None)) is not None and getattr(awaited, "cr_frame", None) is not None:
        coroutine, frame = awaited, awaited.cr_frame
    name = getattr(coroutine, "__qualname__", repr(coroutine))
    return name if frame is None else f"{name} ({frame.f_code.co_filename}:{frame.f_lineno})"


class ScaledLoop(asyncio.SelectorEventLoop):
    """The real clock, `scale` times slower: `time()` and every sleep are in scenario seconds; 1.0 is real time.

    Sockets, signals and executors work as usual. Timers have the kernel's precision (tens of microseconds), not the
    millisecond that asyncio's epoll selector rounds up to, because modelled compute times are slept.
    Raises ValueError unless `scale` is finite and above 0.
    """

    _closed = True  # until the base class opens it: a loop that was refused has nothing to close

    def __init__(self, scale: float = 1.0) -> None:
        if not (scale > 0.0 and math.isfinite(scale)):
            raise ValueError(f"time scale must be above 0, got {scale!r}")
        self.scale = scale
        super().__init__(_ScaledSelector(scale))

    def time(self) -> float:
        """Scenario seconds: the monotonic clock divided by the scale. Comparable between processes with the same scale."""
        return time.monotonic() / self.scale


_SLACK_SHARE, _LONG_S = 0.001, 0.001
"""Linux lets a wait in select or epoll end late by a thousandth of its length (10 ms after 10 s), and by the timer slack."""


class _ScaledSelector(selectors.DefaultSelector):
    """The platform's selector with timeouts in scenario seconds, and without epoll's rounding to milliseconds."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = scale
        least_timer_slack()
        # An epoll descriptor can itself be waited for; select() takes microseconds, and only descriptors below its limit.
        self._precise = hasattr(select, "epoll") and 0 <= self.fileno() < 1024

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Events of registered descriptors, after at most `timeout` scenario seconds."""
        if timeout is not None and timeout > 0.0:
            timeout *= self._scale
            if self._precise:
                if timeout > _LONG_S:
                    timeout /= 1.0 + _SLACK_SHARE  # woken early, the loop asks again for what is left
                select.select((self.fileno(),), (), (), timeout)
                timeout = 0.0
        return super().select(timeout)


def least_timer_slack() -> None:
    """Have the kernel end this thread's waits on time (Linux's default is up to 50 µs late). Elsewhere: does nothing."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)


_PR_SET_TIMERSLACK = 29


def run(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop, and close the loop: what `asyncio.run` does, for a loop of one's choice.

    Ctrl-C cancels `main` (so that its clean-up runs) before KeyboardInterrupt is raised; tasks left over are cancelled and
    waited for, asynchronous generators are closed, and the signal handler is put back, also when `main` raises.
    """
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
