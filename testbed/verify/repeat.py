"""Whether a run repeats: one scenario several times, under load and as another user if asked, and what differs between runs.

Latencies may differ by `LATENCY_LIMIT_S`; bytes, frames, drops, outcomes and the planners' decisions must be equal. How fast a
planner was, and when on the wall, is no part of that. Another user's run is `testbed.verify.other_user`'s.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testbed import registry
from testbed.errors import InputError, RunError
from testbed.orchestrator import Listener, run
from testbed.scenario.schema import Scenario
from testbed.verify import other_user

LATENCY_LIMIT_S = 0.001
"""By how much a request's latency may differ from the first run's (issue: every latency within 1 ms)."""

REQUEST = ("model", "planner", "device", "request", "warmup")
OUTCOME = ("epoch", "input", "correct", "error")
TOTALS = ("wire_bytes", "packets", "drops", "messages", "message_bytes")
DECISION = ("model", "planner", "device", "epoch", "reason", "replan", "installed", "touched", "plan")

Row = Mapping[str, Any]
Progress = Callable[[str], AbstractContextManager[Listener | None]]
"""Called with words about a run before it starts; what holds while it lasts, and listens to its events."""


@dataclass(frozen=True)
class Conditions:
    """Under what a run took place. `loaded`: all cores had something else to do; `uid`: another user's, or None."""

    loaded: bool = False
    uid: int | None = None

    def words(self) -> str:
        """For people."""
        found = ["all cores loaded"] if self.loaded else []
        return " and ".join([*found, *([f"as uid {self.uid}"] if self.uid is not None else [])]) or "plain"


@dataclass(frozen=True)
class Difference:
    """A run against the first one. `latency_s`: largest difference, `where` it is; `unequal`: what must be equal and is not."""

    conditions: Conditions
    requests: int
    latency_s: float
    where: str
    unequal: tuple[str, ...]

    @property
    def beyond(self) -> bool:
        """Whether the promise is broken."""
        return bool(self.unequal) or not self.latency_s <= LATENCY_LIMIT_S


def plan_of(times: int, loaded: bool, uid: int | None) -> list[Conditions]:
    """Conditions of each run: the first plain; where asked the second under load, the last as a user. Raises InputError."""
    if times < 2:
        raise InputError(f"--times {times}: something is repeated at least once, so at least 2")
    if uid is not None and os.geteuid() != 0:
        raise InputError("--uid: only root can run something as another user")
    if uid == 0:
        raise InputError("--uid 0: give an ordinary user's number, such as 65534")
    return [
        Conditions(loaded=loaded and number == min(1, times - 1), uid=uid if number == times - 1 else None)
        for number in range(times)
    ]


def repeat(
    scenario: Scenario,
    backend: str,
    folder: Path,
    conditions: Sequence[Conditions],
    progress: Progress = lambda _words: nullcontext(None),
) -> list[Difference]:
    """Run a scenario once under each of the conditions, into folders 1, 2, ...; every run against the first.

    Raises what runs raise, and RunError for a run of another user that failed.
    """
    folders = [folder / str(number) for number in range(1, len(conditions) + 1)]
    for own, which in zip(folders, conditions, strict=True):
        words = f"run {own.name} of {len(folders)}, {which.words()}"
        with progress(words) as listener, busy(os.cpu_count() or 1 if which.loaded else 0):
            if which.uid is None:
                run(scenario, registry.backend(backend), own, listener)
            else:
                other_user.run_again(folders[0], backend, own, which.uid)
    first, *others = folders
    return [difference(first, other, which) for other, which in zip(others, conditions[1:], strict=True)]


def difference(first: Path, other: Path, conditions: Conditions) -> Difference:
    """Compare two run folders. Raises RunError where they are not of the same requests."""
    ours, theirs = (_keyed(_rows(folder / "inferences.csv"), REQUEST) for folder in (first, other))
    if ours.keys() != theirs.keys():
        raise RunError(f"{first} and {other} do not have the same requests")
    worst, where, unequal = 0.0, "", list(_unequal_totals(first, other))
    for key, a in ours.items():
        b = theirs[key]
        words = f"{key[0]} by {key[1]}, {key[2]}'s request {key[3]}{' (warm-up)' if key[4] == 'true' else ''}"
        unequal += [f"{words}: {name} {a[name]} and {b[name]}" for name in (*OUTCOME, *_byte_columns(a)) if a[name] != b[name]]
        if a["latency_s"] and b["latency_s"]:
            apart = abs(float(a["latency_s"]) - float(b["latency_s"]))
            if apart > worst:
                worst, where = apart, words
    unequal += _unequal_decisions(first, other)
    return Difference(conditions, len(ours), worst, where, tuple(unequal))


def _unequal_totals(first: Path, other: Path) -> Iterator[str]:
    kept = []
    for folder in (first, other):
        totals = [row for row in _rows(folder / "links.csv") if row["kind"] == "total"]
        kept.append(_keyed(totals, ("model", "planner", "link", "direction")))
    if kept[0].keys() != kept[1].keys():
        yield "the runs do not have the same links"
        return
    for key, a in kept[0].items():
        b = kept[1][key]
        for name in TOTALS:
            if a[name] != b[name]:
                yield f"{key[0]} by {key[1]}, link {key[2]} {key[3]}: {name} {a[name]} and {b[name]}"


def _unequal_decisions(first: Path, other: Path) -> Iterator[str]:
    ours, theirs = (_lines(folder / "plans.jsonl") for folder in (first, other))
    if len(ours) != len(theirs):
        yield f"{len(ours)} and {len(theirs)} decisions of planners"
        return
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        for name in DECISION:
            if a.get(name) != b.get(name):
                yield f"decision {number} ({a['model']} by {a['planner']}, second {a['at_s']:.3f}): {name} differs"
        if not abs(a["at_s"] - b["at_s"]) <= LATENCY_LIMIT_S:
            yield f"decision {number} ({a['model']} by {a['planner']}): at second {a['at_s']:.6f} and {b['at_s']:.6f}"


def _byte_columns(row: Row) -> list[str]:
    return [name for name in row if name.endswith("_bytes")]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _keyed(rows: Sequence[dict[str, str]], names: Sequence[str]) -> dict[tuple[str, ...], dict[str, str]]:
    return {tuple(row[name] for name in names): row for row in rows}


def document(found: Sequence[Difference], folder: Path) -> dict[str, Any]:
    """Plain JSON types."""
    return {
        "folder": str(folder),
        "limit_s": LATENCY_LIMIT_S,
        "repeats": not any(one.beyond for one in found),
        "runs": [asdict(one) for one in found],
    }


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Have so many processes of this machine compute for nothing; they end with the block, or with us."""
    code = "import os\nwhile os.getppid() == int(__import__('sys').argv[1]):\n    sum(range(1_000_000))"
    started = [subprocess.Popen([sys.executable, "-S", "-c", code, str(os.getpid())]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
