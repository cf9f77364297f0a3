"""A run's progress: a bar with the time left on a terminal, plain lines where standard error is none."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from testbed.cli.console import err, note


class RunProgress:
    """A listener for `orchestrator.run`; use it as a context manager around the run. `opening` is said once it starts."""

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

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the run (see `orchestrator.journal`)."""
        kind = event["event"]
        if kind == "booting":
            note("booting the time-travel kernel; what runs is imported in it (real tensors: torch too), which takes a while")
        elif kind == "run":
            note(self._opening)
            self._task = self._bar.add_task("starting the network", total=event["requests"])
        elif kind == "session":
            what = f"{event['model']} by {event['planner']} ({event['number']}/{event['sessions']})"
            if self._task is not None:
                self._bar.update(self._task, description=what)
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
