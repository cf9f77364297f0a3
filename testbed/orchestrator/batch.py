"""Several runs on one backend, one after the other, each into a folder of its own; where a kernel has to be booted, all share it.

What becomes of a run does not depend on those before it. Which runs there are is for the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from d3node.errors import NodeError
from testbed.backends.base import Backend, Carrier
from testbed.errors import BackendError, TestbedError
from testbed.orchestrator.experiment import run
from testbed.orchestrator.journal import Listener
from testbed.orchestrator.summary import RunSummary
from testbed.scenario.schema import Scenario


@dataclass(frozen=True)
class Task:
    """One run. `name` tells it from the others, in words for people."""

    name: str
    scenario: Scenario
    folder: Path


@dataclass(frozen=True)
class Ended:
    """What came of a task: a summary, or the error that ended it (the folder then holds what was finished before)."""

    task: Task
    summary: RunSummary | None = None
    error: TestbedError | NodeError | None = None


def run_many(
    tasks: Sequence[Task], backend: Backend | Carrier, listener: Listener | None = None, capture: bool = False
) -> list[Ended]:
    """Carry the tasks out in their order; one that fails does not stop the others, and a kernel that died is booted again.

    `listener` gets the events of all runs, and before each one {"event": "task", name, number, tasks}; after one that failed
    {"event": "task_failed", name, text}. `capture`: see `capture_into`. KeyboardInterrupt is raised; what was finished is kept.
    """
    tell = listener or (lambda _event: None)
    shared: AbstractContextManager[Backend | Carrier] = backend.shared() if isinstance(backend, Carrier) else nullcontext(backend)
    ended = []
    with shared as one:
        for number, task in enumerate(tasks, 1):
            tell({"event": "task", "name": task.name, "number": number, "tasks": len(tasks)})
            if capture:
                capture_into(one, task.folder)
            try:
                ended.append(Ended(task, run(task.scenario, one, task.folder, listener)))
            except (TestbedError, NodeError) as error:
                ended.append(Ended(task, error=error))
                tell({"event": "task_failed", "name": task.name, "text": str(error)})
    return ended


def capture_into(backend: Backend | Carrier, folder: Path, place: str = "capture") -> None:
    """Have a backend's next run leave packet captures at a place in its folder. Raises BackendError for one without packets."""
    if not hasattr(backend, "capture_dir"):
        raise BackendError(f"--capture: backend {backend.name} has no packets to capture; leave it out, or use --backend mininet")
    backend.capture_dir = folder / place
