"""Carries a sweep out: hands cells to workers, writes each row as its cell ends, goes on where an earlier attempt stopped.

What a cell does is `cell.py`'s business, where it runs `pool.py`'s, how rows are kept `folder.py`'s.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed import registry
from testbed.backends.base import Carrier
from testbed.errors import RunError
from testbed.orchestrator import provenance
from testbed.orchestrator.walltime import now_utc
from testbed.sweep.cell import run_cell
from testbed.sweep.folder import SweepFolder, cell_columns
from testbed.sweep.plan import Cell, Plan
from testbed.sweep.pool import Pool, opened

Listener = Callable[[dict[str, Any]], None]
"""Gets {"event": "start", cells, finished, failed, todo, workers, notes} and, for every cell, {"event": "cell", row, done, todo,
elapsed_s, left_s}."""

Job = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """A sweep after an attempt. `failures` are the rows of its failed cells, `rejected` counts cells whose figures are not to be
    trusted, `ran` those of this attempt, which took `elapsed_s`."""

    folder: Path
    cells: int
    finished: int
    failures: tuple[dict[str, str], ...]
    rejected: int
    ran: int
    elapsed_s: float


def execute(
    plan: Plan,
    out_dir: str | Path,
    workers: int | None = None,
    dask: str | None = None,
    retry_failed: bool = False,
    keep_runs: bool = False,
    listener: Listener | None = None,
    job: Job = run_cell,
) -> Outcome:
    """Run the cells of a plan that the folder `out_dir` does not have yet, and leave their rows there.

    `workers`: processes (default: one a processor; a backend on the real clock gets one); `dask`: address of a cluster instead;
    `retry_failed`: those that failed again; `keep_runs`: a run folder for every cell, in `runs/KEY`. `job` is what is carried out
    (tests put others in its place).

    Raises InputError for a folder that cannot be used; KeyboardInterrupt when interrupted, RunError when the cluster is lost; in
    both cases every cell that had ended is kept, and the same call goes on.
    """
    with opened(_workers(plan, workers), dask) as pool:
        folder = SweepFolder(Path(out_dir), plan)
        try:
            return _attempt(folder, plan, pool, dask, retry_failed, keep_runs, listener, job)
        finally:
            folder.close()


def _attempt(
    folder: SweepFolder,
    plan: Plan,
    pool: Pool,
    dask: str | None,
    retry_failed: bool,
    keep_runs: bool,
    listener: Listener | None,
    job: Job,
) -> Outcome:
    todo = [cell for cell in plan.cells if _wanted(folder.latest.get(cell.key), retry_failed)]
    notes = _begin(folder, plan, pool.size, dask)
    outcome = _outcome(folder, plan, 0, 0.0)
    _tell(
        listener,
        "start",
        cells=len(plan.cells),
        finished=outcome.finished,
        failed=len(outcome.failures),
        todo=len(todo),
        workers=pool.size,
        notes=notes,
    )
    runs = str((folder.path / "runs").resolve()) if keep_runs or not _in_memory(plan) else None
    status, ran, start = "interrupted", 0, time.monotonic()
    try:
        for row in _carried(pool, plan.spec.backend, runs, todo, job):
            folder.add(row)
            ran += 1
            elapsed = time.monotonic() - start
            left = elapsed / ran * (len(todo) - ran)
            _tell(listener, "cell", row=row, done=ran, todo=len(todo), elapsed_s=elapsed, left_s=left)
        status = "finished"
    finally:
        elapsed = time.monotonic() - start
        folder.manifest["sessions"][-1].update(ended=now_utc(), ran=ran, elapsed_s=round(elapsed, 3))
        folder.save_manifest(status=status)
    return _outcome(folder, plan, ran, elapsed)


def _carried(pool: Pool, backend: str, runs: str | None, cells: Sequence[Cell], job: Job) -> Iterator[dict[str, Any]]:
    """Rows of the cells, as they end. A worker that dies takes the pool with it: what was in it is run again, one at a time, so
    that the cell which ends its worker is known, and no other suffers for it."""
    waiting = deque(cells)
    suspects: deque[Cell] = deque()
    flying: dict[Future[dict[str, Any]], Cell] = {}
    executor: Executor | None = None
    while waiting or suspects or flying:
        executor = executor or pool.open()
        room = 1 if suspects else 2 * pool.size  # a cell in reserve for every worker, so that none waits for us
        while len(flying) < room and (suspects or waiting):
            cell = (suspects or waiting).popleft()
            flying[executor.submit(job, cell.task(), backend, runs)] = cell
            if room == 1:
                break
        done, _ = wait(flying, return_when=FIRST_COMPLETED)
        lost: list[Cell] = []
        alone = len(flying) == 1
        for future in done:
            cell = flying.pop(future)
            try:
                row = future.result()
            except (BrokenProcessPool, CancelledError) as error:
                if not isinstance(error, BrokenProcessPool):
                    raise RunError("the workers were taken away; the same command goes on") from error
                lost.append(cell)
                continue
            except Exception as error:  # Dask: its worker died, or it could not be sent there
                row = _dead(cell, type(error).__name__, str(error))
            yield {**row, **cell_columns(cell)}
        if lost:
            lost += flying.values()
            flying.clear()
            executor = None
            if alone:
                yield {**_dead(lost[0], "WorkerDied", "its process ended (memory?)"), **cell_columns(lost[0])}
            else:
                suspects.extend(lost)


def _dead(cell: Cell, name: str, text: str) -> dict[str, Any]:
    return {"key": cell.key, "status": "failed", "ended": now_utc(), "error": name, "error_text": text}


def _wanted(row: dict[str, str] | None, retry_failed: bool) -> bool:
    return row is None or (retry_failed and row["status"] == "failed")


def _workers(plan: Plan, asked: int | None) -> int:
    """Virtual time does not mind company; a real clock does."""
    if not _virtual(plan):
        return 1
    return asked or max(1, os.cpu_count() or 1)


def _virtual(plan: Plan) -> bool:
    return plan.spec.backend == "sim" or isinstance(registry.backend(plan.spec.backend), Carrier)


def _in_memory(plan: Plan) -> bool:
    return plan.spec.backend == "sim"


def _begin(folder: SweepFolder, plan: Plan, workers: int, dask: str | None) -> list[str]:
    """Note this attempt in the manifest; what is different from the earlier ones, in words."""
    sessions = list(folder.manifest.get("sessions", []))
    git = provenance.git_state()
    notes = []
    if sessions:
        before = sessions[-1]
        changed = [name for name, now in plan.versions.items() if before["versions"].get(name) != now]
        if changed:
            notes.append(f"other versions than before ({', '.join(changed)}): cells of the earlier ones are not counted")
        if (before.get("git") or {}).get("commit") != (git or {}).get("commit"):
            notes.append("the testbed's own commit is not the earlier one's; cells that are finished are kept as they are")
    sessions.append(
        {
            "started": now_utc(),
            "workers": workers,
            "dask": dask,
            "versions": dict(plan.versions),
            "machine": provenance.machine(),
            "git": git,
        }
    )
    folder.save_manifest(
        name=plan.spec.name,
        status="running",
        spec=plan.spec.model_dump(mode="json"),
        axes={name: list(values) for name, values in plan.axes.items()},
        cells=len(plan.cells),
        scenario=plan.cells[0].scenario.model_dump(mode="json"),
        sessions=sessions,
    )
    return notes


def _outcome(folder: SweepFolder, plan: Plan, ran: int, elapsed_s: float) -> Outcome:
    rows = [folder.latest[cell.key] for cell in plan.cells if cell.key in folder.latest]
    return Outcome(
        folder=folder.path,
        cells=len(plan.cells),
        finished=sum(row["status"] == "finished" for row in rows),
        failures=tuple(row for row in rows if row["status"] == "failed"),
        rejected=sum(row.get("verdict") == "rejected" for row in rows),
        ran=ran,
        elapsed_s=elapsed_s,
    )


def _tell(listener: Listener | None, event: str, **fields: Any) -> None:
    if listener is not None:
        listener({"event": event, **fields})
