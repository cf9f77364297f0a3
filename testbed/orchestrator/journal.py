"""Events of a run: to whoever listens, and (except for mere progress) into events.jsonl.

| event    | fields                                                                                     |
|----------|--------------------------------------------------------------------------------------------|
| run      | scenario, backend, folder, sessions (their number), requests (in all, warm-up included)      |
| session  | model, planner, number (from 1), sessions                                                  |
| progress | done, total (requests of the whole run), model, planner; not written to the file           |
| plan     | model, planner, device, epoch, at_s, reason, installed, touched (their number), planning_time_s |
| share    | model, planner, host, at_s, late_s, cpu_share                                              |
| probe    | model, planner, source, target, at_s, bytes, seconds                                       |
| warning  | text, and what it is about                                                                 |
| session_end | model, planner, requests, failed                                                        |
| run_end  | status, verdict                                                                            |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from testbed.orchestrator.results import LineSink

Listener = Callable[[dict[str, Any]], None]


class Journal:
    """Emits events. `listener` may be None."""

    def __init__(self, lines: LineSink, listener: Listener | None) -> None:
        self._lines = lines
        self._listener = listener
        self.done = 0
        self.total = 0

    def emit(self, event: str, **fields: Any) -> None:
        """Record an event and pass it on."""
        record = {"event": event, **fields}
        self._lines.add(record)
        if self._listener is not None:
            self._listener(record)

    def progress(self, session: Mapping[str, Any]) -> None:
        """One more request is over."""
        self.done += 1
        if self._listener is not None:
            self._listener({"event": "progress", "done": self.done, "total": self.total, **session})
