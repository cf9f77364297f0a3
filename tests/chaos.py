"""Scenarios in which everything goes wrong, drawn from a seed; and what must hold of a run of one, whatever has gone wrong in it.

Everything but the network is drawn: topology, route, loads, planners, ways of recovery, and faults of all kinds that overlap.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from chaos_answers import Witness
from conformance.scenario import MODEL

import d3node.errors
import testbed.errors
from d3node.bounds import Bounds
from d3node.channel import Message
from d3node.errors import NodeError
from testbed import registry
from testbed.backends.base import Backend, Session, Support
from testbed.orchestrator import run
from testbed.orchestrator.overload import REFUSED
from testbed.orchestrator.tracker import DEADLINE_MARGIN_S
from testbed.orchestrator.world import sites_of
from testbed.scenario.schema import Scenario
from topologies.layout import Layout

T = TypeVar("T")
PLANNERS = (
    "device-only",
    "edge-only",
    "cloud-only",
    "hpa",
    "d3",
    "d3",
    "optimal",
    "optimal-tiles",
    "modnn",
    "coedge",
    "random",
    "greedy",
)
DEADLINE_S = 6.0
EDGES, DEVICES = (1, 2, 3, 4), (1, 2, 3)
ERRORS = {name for module in (d3node.errors, testbed.errors) for name in dir(module) if not name.startswith("_")}
ERRORS = (ERRORS | {"HostUnreachable", "RecoveryFailed", *REFUSED}) - {"PlanError"}
"""Names that a failed request may end with."""
QUIET_S = 2.0
"""What the last messages of a run may still take, on a real clock."""


def draw(seed: int, *, tensors: str, requests: int, netem: bool = True, lasts_s: float = 12.0) -> Scenario:
    """A scenario of about so many measured requests in each of two sessions of about `lasts_s`. Without `netem`: no delays, no
    losses."""
    random = Random(seed)
    devices, edges = random.choice(DEVICES), random.choice(EDGES)
    route = random.choice(("relay", "direct"))
    arrival = random.choice(("closed", "closed", "fixed", "poisson"))
    count = max(1, requests // devices)
    load: dict[str, Any] = {"count": count, "arrival": arrival, "deadline": f"{DEADLINE_S:g} s", "distinct_inputs": 2}
    if arrival == "closed":
        load["think_time"] = f"{0.6 * lasts_s / count:.4f} s"
    else:
        load["rate"] = f"{count / lasts_s:.4f} /s"
    delay = random.choice((0, 2, 20)) if netem else 0
    raw: dict[str, Any] = {
        "name": f"chaos-{seed}",
        "seed": seed,
        "model": {"names": [MODEL]},
        "topology": {"devices": devices, "edges": edges, "cellular": route == "direct" and random.random() < 0.5},
        "links": {
            "access": {"rate": f"{random.uniform(5, 50):.1f} Mbit/s", "delay": f"{delay / 4} ms"},
            "lan": {"rate": "100 Mbit/s"},
            "backbone": {"rate": f"{random.uniform(1, 10):.1f} Mbit/s", "delay": f"{delay} ms"},
        },
        "hosts": {tier: {"speed": 10 ** random.uniform(-3.0, 0.0)} for tier in ("device", "edge", "cloud")},
        "compute": {"tensors": tensors},
        "network": {"route": route},
        "requests": load,
        "planning": {"planners": sorted({random.choice(PLANNERS) for _ in range(2)}), "interval": "0.2 s"},
        "recovery": {"mode": random.choice(("resume", "resume", "restart")), "attempts": random.choice((1, 3, 5))},
    }
    if raw["topology"]["cellular"]:
        raw["links"]["cellular"] = {"rate": "4 Mbit/s", "delay": f"{delay} ms"}
    if random.random() < 0.5:
        raw["planning"] |= {"probe_interval": "0.5 s", "probe_size": "4 kB"}
    layout = registry.layout(Scenario.model_validate(raw).topology)
    raw["fault"] = [fault(random, layout, count, lasts_s, netem) for _ in range(random.randint(1, 8))]
    return Scenario.model_validate(raw)


def fault(random: Random, layout: Layout, count: int, lasts_s: float, netem: bool) -> dict[str, Any]:
    """Anything that can go wrong, some time in a session of `count` requests of each device."""
    hosts, links = [host.name for host in layout.hosts], list(layout.link_names)
    kinds = ["kill", "kill", "kill", "hang", "hang", "slow", "down", "flap", "partition", "corrupt", "truncate", "orchestrator"]
    kind = random.choice([*kinds, "loss"] if netem else kinds)
    found: dict[str, Any] = {"kind": kind}
    if random.random() < 0.2:
        found["when"] = f"request {random.randrange(count)}"
    else:
        found["at"] = f"{random.uniform(0.0, lasts_s):.3f} s"
    lasts = f"{random.choice((0.05, 0.3, 1.0, 3.0)) * random.uniform(0.5, 1.5):.3f} s"
    if kind in ("flap", "orchestrator") or (kind not in ("corrupt", "truncate") and random.random() < 0.85):
        found["for"] = lasts
    if kind in ("kill", "hang", "slow", "corrupt", "truncate"):
        found["host"] = random.choice(hosts)
    if kind in ("corrupt", "truncate"):
        known = [host.name for host in layout.hosts if layout.meet(found["host"], host.name)]
        found["peer"] = random.choice([host for host in hosts if host in known])
    if kind == "slow":
        found["factor"] = random.uniform(1.5, 50.0)
    if kind in ("down", "flap", "loss"):
        found["link"] = random.choice(links)
        found["direction"] = random.choice(("up", "down", "both"))
    if kind == "flap":
        found["period"] = f"{random.choice((0.1, 0.5, 1.0))} s"
    if kind == "loss":
        found["loss"] = random.uniform(0.01, 0.5)
    if kind == "partition":
        found["hosts"] = random.sample(hosts, random.randint(1, len(hosts) - 1))
    return found


@dataclass
class Left:
    """What agents still held when the run was over, by host; and what a look at the session found then."""

    stats: dict[str, dict[str, Any]] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)


Look = Callable[[Session], Awaitable[list[str]]]


class Watched:
    """A backend that has a look at its agents when the run is over. `look(session)`: for what only this backend can tell."""

    def __init__(self, backend: Backend, quiet_s: float, look: Look | None = None) -> None:
        self.name = backend.name
        self.left = Left()
        self.held = HELD if quiet_s < Bounds().kept_s else (*HELD, *KEPT)
        self._backend = backend
        self._quiet_s = quiet_s
        self._look = look

    def support(self, scenario: Scenario) -> Support:
        return self._backend.support(scenario)

    def run(self, scenario: Scenario, main: Callable[[Session], Awaitable[T]]) -> T:
        async def watched(session: Session) -> T:
            result = await main(session)
            await asyncio.sleep(self._quiet_s)
            for host in session.layout.by_name:
                self.left.stats[host] = await _stats(session, host)
            if self._look is not None:
                self.left.found = await self._look(session)
            return result

        return self._backend.run(scenario, watched)


async def _stats(session: Session, host: str) -> dict[str, Any]:
    try:
        channel = await session.control(host)
        await channel.send(Message("stats", {"id": 1}))
        async with asyncio.timeout(30.0):
            found = (await channel.receive()).fields
        await channel.close()
    except (NodeError, TimeoutError) as error:
        return {"gone": str(error)}
    return found


HELD = ("active", "queued", "parked", "waiting")
"""Figures of `stats` that are 0 where nothing is left of any request; those of tensors to go on from are so after two minutes."""
KEPT = ("kept", "kept_bytes")


@dataclass
class Ended:
    """A run of a drawn scenario: its rows, and all that was not as it must be."""

    scenario: Scenario
    requests: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    recoveries: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def carry_out(scenario: Scenario, backend: Watched, folder: Path) -> Ended:
    """Run it, and hold it against what must always be."""
    ends: dict[tuple[str, str, str, bool], list[float]] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            key = (event["planner"], event["device"], str(event["request"]), event["warmup"])
            ends.setdefault(key, []).append(event["at_s"])

    ended = Ended(scenario)
    with Witness() as witness:
        summary = run(scenario, backend, folder, listen)
    ended.wrong += witness.wrong
    rows = _read(folder / "inferences.csv")
    ended.requests = len(rows)
    _rows(ended, rows, ends)
    fidelity = json.loads((folder / "fidelity.json").read_text())
    for session in fidelity["sessions"]:
        for invariant in session["invariants"]:
            if invariant["name"] in ("answers", "one_ending_each") and invariant["level"] != "ok":
                ended.wrong.append(f"{session['planner']}: {invariant['name']} = {invariant['value']}: {invariant['detail']}")
    for invariant in fidelity["backend"]:
        if invariant["level"] == "rejected":
            ended.wrong.append(f"{invariant['name']} = {invariant['value']}: {invariant['detail']}")
    if (folder / "faults.csv").exists():
        ended.faults.update(row["kind"] for row in _read(folder / "faults.csv") if row["begin_s"])
    ended.wrong += [f"left: {text}" for text in backend.left.found]
    for host, stats in backend.left.stats.items():
        if "gone" in stats:
            ended.wrong.append(f"{host} is not there when the run is over: {stats['gone']}")
        held = {name: stats[name] for name in backend.held if stats.get(name)}
        if held:
            ended.wrong.append(f"{host} still holds {held}")
    assert summary.pairs
    return ended


def _read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def _rows(ended: Ended, rows: list[dict[str, str]], ends: dict[tuple[str, str, str, bool], list[float]]) -> None:
    table = ended.scenario.requests
    seen = Counter((row["planner"], row["device"], row["request"], row["warmup"] == "true") for row in rows)
    origins = sites_of(registry.layout(ended.scenario.topology), ended.scenario.network.route, table.origins)
    expected = len(ended.scenario.planning.planners) * len(origins) * (table.count + table.warmup)
    allowed = ERRORS | ({"Shed"} if table.queue is not None else set())
    if len(seen) != expected or set(seen.values()) != {1}:
        ended.wrong.append(f"{len(rows)} rows of {len(seen)} requests, {expected} were to be made")
    for row in rows:
        key = (row["planner"], row["device"], row["request"], row["warmup"] == "true")
        where = f"{row['planner']}, request {row['request']} of {row['device']}{' (warm-up)' * key[3]}"
        ended.recoveries += int(row.get("recoveries") or 0)
        if row["error"]:
            ended.failed[row["error"]] += 1
            if row["error"] not in allowed or not row["error_text"]:
                ended.wrong.append(f"{where} ended with {row['error']!r}: {row['error_text']!r}")
            if row["error"] == "AgentError" and row["device"] not in row["error_text"]:
                ended.wrong.append(f"{where} ended though its device lived: {row['error_text']}")
        elif ended.scenario.compute.tensors == "real" and row["correct"] != "true" and not row["agrees"]:
            ended.wrong.append(f"{where} has a wrong answer")
        if not key[3]:
            (at_s,) = ends.get(key, [-1.0])[:1]
            took = at_s - float(row["submitted_s"] or row["due_s"])
            if not took <= DEADLINE_S + DEADLINE_MARGIN_S + 0.5:
                ended.wrong.append(f"{where} took {took:.3f} s")
