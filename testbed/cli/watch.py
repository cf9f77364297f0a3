"""`testbed run --watch`: a run as it goes, drawn again a few times a second; the final table follows as usual."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live as Screen

from testbed.cli.console import err, note
from testbed.report.live import Live
from testbed.report.live_view import view

REDRAWN_PER_S = 5.0


class RunWatch:
    """A listener for `orchestrator.run` and `run_many`, like `RunProgress`; for terminals only. `state` is what is shown.

    Events come from the run's thread and drawing from another, so both take a lock: what is drawn is one moment of the run.
    """

    def __init__(self, opening: str, console: Console = err) -> None:
        self._opening = opening
        self._console = console
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self.state = Live()
        self._screen = Screen(
            console=console,
            get_renderable=self._drawn,
            refresh_per_second=REDRAWN_PER_S,
            transient=True,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        self._screen.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._screen.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the run (see `orchestrator.journal`)."""
        if event["event"] == "task":
            note(f"run {event['number']} of {event['tasks']}: {event['name']}")
            with self._lock:
                self.state = Live()
        elif event["event"] == "task_failed":
            self._console.print(f"{event['name']} failed: {event['text']}", style="red", markup=False)
        elif event["event"] == "run":
            note(self._opening)
        elif event["event"] == "warning":
            self._console.print(f"warning: {event['text']}", style="yellow", markup=False)
        with self._lock:
            self.state.take(event)

    def _drawn(self) -> RenderableType:
        with self._lock:
            return view(self.state, self._console.width, time.monotonic() - self._begun)
