"""A run's progress: a bar with the time left on a terminal, plain lines where standard error is none."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from testbed.cli.console import err, note


class RunProgress:
    """A listener for `orchestrator.run` and `run_many`; use it as a context manager around. `opening` is said at the start."""

    def __init__(self, opening: str) -> None:
        self._opening = opening
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
            expand=True,
        )
        self._task: TaskID | None = None
        self._name = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the run (see `orchestrator.journal`)."""
        kind = event["event"]
        if kind == "task":
            self._name = f"{event['name']}: "
            self._plain(f"run {event['number']} of {event['tasks']}: {event['name']}")
        elif kind == "task_failed":
            err.print(f"{event['name']} failed: {event['text']}", style="red", markup=False)
        elif kind == "booting":
            note("booting the time-travel kernel; what runs is imported in it (real tensors: torch too), which takes a while")
        elif kind == "run":
            if self._task is None:
                note(self._opening)
            else:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(f"{self._name}starting the network", total=event["requests"])
        elif kind == "session":
            what = f"{event['model']} by {event['planner']} ({event['number']}/{event['sessions']})"
            if self._task is not None:
                self._bar.update(self._task, description=self._name + what)
            self._plain(what)
        elif kind == "progress" and self._task is not None:
            self._bar.update(self._task, completed=event["done"])
        elif kind == "session_end" and event.get("failed"):
            err.print(
                f"{event['failed']} of {event['requests']} requests failed: {event['model']} by {event['planner']}",
                style="yellow",
            )
        elif kind == "warning":
            err.print(f"warning: {event['text']}", style="yellow", markup=False)

    def _plain(self, text: str) -> None:
        if not err.is_terminal:
            err.print(text, markup=False)
