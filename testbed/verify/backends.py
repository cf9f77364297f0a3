"""One scenario in two backends, and how far apart they are: what a network model is worth against the network it stands for.

The second backend is the reference. Pairing of requests and figures are `testbed.verify.differences`'; the picture is
`testbed.verify.difference_plot`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from testbed import registry
from testbed.errors import InputError, RunError
from testbed.orchestrator import Listener, Task, run_many
from testbed.report.run import load
from testbed.scenario.schema import Scenario
from testbed.verify.differences import Session, paired, sessions

LATENCY_LIMIT = 0.03
"""The median of a session's latency differences may be this share of the reference."""

BYTES_LIMIT = 0.01
"""The requests' backbone bytes together, and all bytes of frames on the backbone, may differ by this share."""

BACKENDS = ("sim", "vkernel")
OWN_TRACES = ""


@dataclass(frozen=True)
class Comparison:
    """One scenario with one trace. `name` is the trace's; `requests` has a row per request (see `differences.paired`)."""

    name: str
    sessions: list[Session]
    requests: pd.DataFrame
    verdicts: tuple[str, str]

    def beyond(self) -> Iterator[str]:
        """What is beyond the limits, in words."""
        for session in self.sessions:
            where = f"{session.model} by {session.planner}" + (f" ({self.name})" if self.name else "")
            for what, value, limit in (
                ("median latency difference", session.latency.median, LATENCY_LIMIT),
                ("difference of backbone bytes", abs(session.volume_difference), BYTES_LIMIT),
                ("difference of bytes of frames", abs(session.wire_difference), BYTES_LIMIT),
            ):
                if not value <= limit and session.answered:
                    yield f"{where}: {what} {value * 100:.2f} %, at most {limit * 100:g} % are allowed"
            if session.failed_in_one:
                yield f"{where}: {session.failed_in_one} of {session.requests} requests were answered by one backend only"


def check_names(names: Sequence[str]) -> tuple[str, str]:
    """Two different backends that there are. Raises InputError."""
    if len(names) != 2 or names[0] == names[1]:
        raise InputError(f"--backends {','.join(names)}: name two, the second is the reference, as in {','.join(BACKENDS)}")
    for name in names:
        registry.check_known("testbed.backends", name)
    return names[0], names[1]


def compare(
    scenarios: Mapping[str, Scenario],
    names: tuple[str, str],
    folder: Path,
    progress: Callable[[str], AbstractContextManager[Listener | None]] = lambda _name: nullcontext(None),
) -> list[Comparison]:
    """Run scenarios, by the names of their traces, in one backend and then in the other, and compare.

    Each run has the folder TRACE/BACKEND. `progress` is what holds while a backend's runs last, and listens to their events. What
    the first run that failed raised is raised when the others have ended.
    """
    for name in names:
        tasks = [Task(label or scenario.name, scenario, folder / label / name) for label, scenario in scenarios.items()]
        with progress(name) as listener:
            ended = run_many(tasks, registry.backend(name), listener)
        for one in ended:
            if one.error is not None:
                raise one.error
    return [_compared(label, names, folder / label) for label in scenarios]


def _compared(label: str, names: tuple[str, str], folder: Path) -> Comparison:
    mine, reference = (load(folder / name) for name in names)
    both = paired(mine, reference)
    if len(both) < len(reference.inferences) or len(both) < len(mine.inferences):
        raise RunError(f"{mine.path} and {reference.path} do not have the same requests")
    both.insert(0, "trace", label)
    return Comparison(label, sessions(mine, reference, both), both, (mine.verdict, reference.verdict))


def requests_of(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """All requests of several comparisons in one table."""
    return pd.concat([comparison.requests for comparison in comparisons], ignore_index=True)


def document(names: tuple[str, str], comparisons: Sequence[Comparison], each: bool = False) -> dict[str, Any]:
    """Plain JSON types; infinite and missing figures are None. `each`: requests too."""
    return {
        "backends": list(names),
        "limits": {"latency": LATENCY_LIMIT, "bytes": BYTES_LIMIT},
        "beyond": [text for comparison in comparisons for text in comparison.beyond()],
        "sessions": [
            _plain({"trace": comparison.name, **_with_differences(session)})
            for comparison in comparisons
            for session in comparison.sessions
        ],
        **({"requests": [_plain(row) for row in requests_of(comparisons).to_dict(orient="records")]} if each else {}),
    }


def _with_differences(session: Session) -> dict[str, Any]:
    return {
        **asdict(session),
        "volume_difference": session.volume_difference,
        "wire_difference": session.wire_difference,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value
