"""Runs in which things go wrong: VGG-16 over a device, four edge hosts and a cloud, and what their folders say."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration import scenario

from testbed.backends.sim import SimBackend
from testbed.orchestrator import run

DEADLINE_S = 8.0
BOUND_S = 5.0
"""How long after its deadline a request may end at the latest (`tracker.DEADLINE_MARGIN_S`)."""

NAMED = {"AgentError", "HostUnreachable", "DeadlineExceeded", "RecoveryFailed", "PeerLost"}


AT_S = 1.03
"""The fifth request has its input at the edge, and all edge hosts compute its tiles."""

ON_THE_BACKBONE_S = 1.09
"""It is on its way from the edge to the cloud."""


def fault(kind: str, at: str = f"{AT_S} s", **more: Any) -> dict[str, Any]:
    """A fault that comes while tiles are computed."""
    return {"kind": kind, "at": at, **more}


@dataclass
class Outcome:
    """What a run's folder says; `rows` are measured requests only."""

    rows: list[dict[str, str]]
    faults: list[dict[str, str]]
    events: list[dict[str, Any]]
    fidelity: dict[str, Any]
    folder: Path

    def of(self, event: str) -> list[dict[str, Any]]:
        return [found for found in self.events if found["event"] == event]

    @property
    def errors(self) -> list[str]:
        return [row["error"] for row in self.rows if row["error"]]

    @property
    def resumed(self) -> list[dict[str, str]]:
        return [row for row in self.rows if row["recoveries"] != "0"]

    def latency_s(self, number: int) -> float:
        return next(float(row["latency_s"]) for row in self.rows if int(row["request"]) == number)

    def hosts_after(self, moment_s: float) -> set[str]:
        """Hosts that computed tiles of requests submitted after a moment."""
        later = [row for row in self.rows if float(row["submitted_s"]) > moment_s]
        return {tile.split(":")[0] for row in later for tile in row["tiles"].split()}


def tables(*faults: dict[str, Any], **more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model": {"names": ["vgg16"]},
        "topology": {"edges": 4, "devices": 1},
        "hosts": {
            "device": {"profile": "raspberry-pi-4"},
            "edge": {"profile": "jetson-tx2"},
            "cloud": {"profile": "tesla-t4"},
        },
        "planning": {"planners": ["d3"], "probe_interval": "0.5 s", "probe_size": "16 kB"},
        "requests": {"count": 20, "warmup": 1, "deadline": f"{DEADLINE_S:g} s"},
        "fault": list(faults),
    }
    for name, table in more.items():
        base[name] = {**base.get(name, {}), **table} if isinstance(table, dict) and name != "links" else table
    return base


def faulty(folder: Path, *faults: dict[str, Any], backend: Any = None, **more: Any) -> Outcome:
    """Run with faults, and check what must hold whatever goes wrong."""
    asked = scenario(**tables(*faults, **more))
    run(asked, backend or SimBackend(), folder)
    rows = table(folder / "inferences.csv")
    outcome = Outcome(
        rows=[row for row in rows if row["warmup"] == "false"],
        faults=table(folder / "faults.csv"),
        events=[json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()],
        fidelity=json.loads((folder / "fidelity.json").read_text()),
        folder=folder,
    )
    check(outcome, asked)
    return outcome


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def check(outcome: Outcome, asked: Any) -> None:
    """Every request has ended exactly once, in time, with the whole model's answer or an error that has a name."""
    sessions = len(asked.planning.planners) * len(asked.model.names)
    ended = Counter((row["planner"], row["model"], row["device"], row["request"]) for row in outcome.rows)
    assert set(ended.values()) == {1}
    assert len(ended) == sessions * asked.requests.count * asked.topology.devices
    for row in outcome.rows:
        assert bool(row["error"]) != bool(row["latency_s"])
        assert not row["error"] or row["error"] in NAMED, row["error_text"]
        if row["latency_s"]:
            assert float(row["latency_s"]) <= asked.requests.deadline + BOUND_S
        assert row["correct"] != "false"
        assert not (asked.compute.tensors == "real" and row["latency_s"]) or row["correct"] == "true"
    for session in outcome.fidelity["sessions"]:
        facts = session["facts"]
        assert (facts["over"], facts["stray_ends"], facts["wrong"]) == (facts["requests"], 0, 0)
