"""How long a sweep would take, measured: a few of its cells are run here, and their rows thrown away."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.sweep.cell import let_go, run_cell
from testbed.sweep.plan import Cell

PROBES = 6
"""Cells tried, at equal distances in the plan (models and planners differ along it)."""


@dataclass(frozen=True)
class Estimate:
    """Wall-clock time of `cells` cells on `workers` workers, if these are as fast as this process was with `probes_s`, and none
    hinders another."""

    cells: int
    workers: int
    probes_s: tuple[float, ...]
    failures: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """The mean cell, as often as there are cells, shared among the workers."""
        return sum(self.probes_s) / len(self.probes_s) * self.cells / self.workers if self.probes_s else 0.0


def estimate(
    cells: Sequence[Cell],
    backend: str,
    workers: int,
    probes: int = PROBES,
    job: Callable[..., Mapping[str, Any]] = run_cell,
) -> Estimate:
    """Run up to `probes` of the cells (one before them, to warm caches, is not counted)."""
    step = max(1.0, len(cells) / max(1, probes))
    chosen = [cells[int(step * place)] for place in range(min(probes, len(cells)))]
    times, failures = [], []
    with tempfile.TemporaryDirectory(prefix="testbed-sweep-") as folder:
        for cell in chosen[:1] + chosen:
            start = time.perf_counter()
            row = job(cell.task(), backend, None if backend == "sim" else folder)
            times.append(time.perf_counter() - start)
            if row["status"] == "failed":
                failures.append(f"{cell.model} by {cell.planner}: {row['error']}: {row['error_text']}")
        let_go()
    return Estimate(len(cells), workers, tuple(times[1:]), tuple(dict.fromkeys(failures)))
