"""Where cells are carried out: processes of this machine, or a Dask cluster, behind the one interface of `concurrent.futures`.

Processes of this machine never outlive the sweep, also when it is killed. Which cell goes when is `execute.py`'s business.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Protocol

from testbed.errors import BackendError, InputError
from testbed.sweep.cell import let_go


class Pool(Protocol):
    """Opens executors: a new one where the last has broken. `size`: how many cells run at a time."""

    size: int

    def open(self) -> Executor: ...

    def close(self) -> None:
        """End the executor and whatever it runs, at once."""
        ...


class LocalPool:
    """Processes of this machine, started afresh (no state of this one in them)."""

    def __init__(self, workers: int) -> None:
        self.size = workers
        self._executor: ProcessPoolExecutor | None = None
        self._lifeline: Connection | None = None

    def open(self) -> Executor:
        """A new executor."""
        self.close()
        context = multiprocessing.get_context("spawn")
        theirs, self._lifeline = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(self.size, context, initializer=_live_only_with, initargs=(theirs,))
        return self._executor

    def close(self) -> None:
        """End it: the workers' lifeline is cut, which ends them also in the middle of a cell."""
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


def _live_only_with(lifeline: Connection) -> None:
    """In a worker: end with the sweep's process, whose end of the pipe closes with it; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        lifeline.poll(None)  # nothing is ever sent: it returns when the other end is gone
        try:
            let_go()
        finally:
            os._exit(1)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()


class DaskPool:
    """The workers of a Dask cluster that runs already. They need this package, in the same versions."""

    def __init__(self, address: str) -> None:
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise BackendError('--dask needs dask.distributed: pip install "d3-testbed[cluster]"') from error
        try:
            self._client = distributed.Client(address, timeout=10)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(f"--dask {address}: no scheduler answers there: {error}") from error
        threads = self._client.nthreads()
        self.size = max(1, sum(threads.values()))
        self._executor: Executor | None = None

    def open(self) -> Executor:
        """The cluster as an executor; a cell is not repeated by Dask when its worker dies (`execute` decides)."""
        self._executor = self._client.get_executor(pure=False, retries=0)
        return self._executor

    def close(self) -> None:
        """Cancel what is still to do and leave the cluster running."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None
        self._client.close()


@contextmanager
def opened(workers: int, dask: str | None) -> Iterator[Pool]:
    """A pool, closed at the end whatever happens. `dask`: address of a scheduler, instead of processes here."""
    pool: Pool = LocalPool(workers) if dask is None else DaskPool(dask)
    try:
        yield pool
    finally:
        pool.close()
