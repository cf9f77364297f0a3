"""Events of a run (those of several are in `batch.py`): to whoever listens, and (except for mere progress) into events.jsonl.

| event    | fields                                                                                     |
|----------|--------------------------------------------------------------------------------------------|
| run      | scenario, backend, folder, sessions (their number), requests (in all, warm-up included), hosts (with tiers), |
|          | links (with roles)                                                                         |
| run_resumed | session, model, planner (that it goes on with), how (begun again or taken over), why, at (date and time) |
| session  | model, planner, number (from 1), sessions                                                  |
| progress | done, total (requests of the whole run), model, planner, and what `live.request` says; not written |
| link     | link, direction, at_s, rate_bps, delay_s, loss: from now on; not written (links.csv has them) |
| host     | host, at_s, cpu_share: from now on; not written (event share, at the session's end)          |
| measure  | model, planner: the warm-up is over, scenario second 0 is now; not written                   |
| plan     | model, planner, device, epoch, at_s, reason, installed, touched (their number), vertices, planning_time_s, |
|          | predicted_latency_s; where installed: tiers (vertices on each), tiled (vertices), tile_hosts |
| share    | model, planner, host, at_s, late_s, cpu_share                                              |
| probe    | model, planner, source, target, at_s, bytes, seconds                                       |
| warning  | text, and what it is about                                                                 |
| fault    | model, planner, at_s, fault (its number), kind, target, phase (begin or end)                |
| host_lost, host_back | model, planner, at_s, host; text (why it is taken for lost)                    |
| path_lost, path_back | model, planner, at_s, source, target: probes of a path go unanswered, or are answered again |
| stranded | model, planner, at_s, host (that cannot go on), lost (for want of whom), device, request   |
| resumed  | model, planner, at_s, device, request, was, epoch (which it goes on with), done (vertices that need not be |
|          | computed any more), after_s (since its loss was known)                                     |
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

    def live(self, event: str, **fields: Any) -> None:
        """Pass an event on that is not recorded."""
        if self._listener is not None:
            self._listener({"event": event, **fields})

    def progress(self, session: Mapping[str, Any], told: Callable[[], Mapping[str, Any]]) -> None:
        """One more request is over; `told` is asked for more of it if somebody listens."""
        self.done += 1
        if self._listener is not None:
            self._listener({"event": "progress", "done": self.done, "total": self.total, **session, **told()})
