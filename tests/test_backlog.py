"""A host with a backlog makes the requests below it wait: what it holds is bounded, the source sheds, nothing else is lost."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from chaos import Watched, carry_out, draw
from conformance.scenario import MODEL
from test_chaos import KEPT_S, judge, left_in_sim
from test_overload import each_ended_once, facts_of, rows_of

from d3node.request import Request
from d3node.requests import Requests
from testbed.backends.mininet import MininetBackend
from testbed.backends.sim import SimBackend
from testbed.errors import ScenarioError
from testbed.orchestrator import run
from testbed.orchestrator.overload import windows
from testbed.scenario.faults import FaultTable
from testbed.scenario.load import build
from testbed.scenario.schema import Scenario
from topologies.layout import Host

QUEUE = 6


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """By host, the most parts of requests that it led, and the most that it computed tiles of, at any time."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    register = Requests.register

    def counted(self: Requests, table: Any, request: Request) -> None:
        register(self, table, request)
        led, helped = found[self.name]
        found[self.name] = [max(led, len(self.leads)), max(helped, len(self.hands))]

    monkeypatch.setattr(Requests, "register", counted)
    return found


def scenario(planner: str, count: int, rate: float, backlog: dict[str, int], route: str = "relay", **tables: Any) -> Scenario:
    """Fast devices and links, slow hosts behind them, and requests at a rate that none of them can serve."""
    speeds = {"device": 1.0, "edge": 0.02, "cloud": 0.02}
    raw: dict[str, Any] = {
        "name": "backlog",
        "model": {"names": [MODEL]},
        "topology": {"devices": 2, "edges": 3},
        "links": {
            "access": {"rate": "1 Gbit/s", "delay": "1 ms"},
            "lan": {"rate": "1 Gbit/s", "delay": "1 ms"},
            "backbone": {"rate": "1 Gbit/s", "delay": "5 ms"},
        },
        "hosts": {
            tier: {"speed": speed, **({"backlog": backlog[tier]} if tier in backlog else {})} for tier, speed in speeds.items()
        },
        "network": {"route": route},
        "compute": {"tensors": "sizes"},
        "requests": {"count": count, "arrival": "poisson", "rate": f"{rate} /s", "queue": QUEUE, "deadline": "600 s"},
        "planning": {"planners": [planner], "replan": "never"},
    }
    return build({**raw, **tables})


@pytest.mark.parametrize("backlog", [1, 2])
def test_a_slow_edge_holds_no_more_than_its_backlog_and_the_source_sheds(
    tmp_path: Path, peaks: dict[str, list[int]], backlog: int
) -> None:
    for name, bounds in (("without", {}), ("with", {"edge": backlog})):
        peaks.clear()
        run(scenario("edge-only", 300, 200.0, bounds), SimBackend(), tmp_path / name)
        rows = rows_of(tmp_path / name)
        each_ended_once(rows, 300)
        errors = Counter(row["error"] for row in rows)
        assert set(errors) == {"", "Shed"}
        assert errors["Shed"] > 100
        assert facts_of(tmp_path / name)["failed"] == 0
        assert peaks["e1"][0] == (backlog if bounds else QUEUE)  # of d1; e2 leads for d2
        served = errors[""]
        assert served > 20
        assert peaks["d1"][0] == QUEUE


def test_a_slow_cloud_fills_the_edge_and_then_the_devices(tmp_path: Path, peaks: dict[str, list[int]]) -> None:
    asked = scenario("cloud-only", 300, 200.0, {"edge": 2, "cloud": 3})
    run(asked, SimBackend(), tmp_path / "run")
    errors = Counter(row["error"] for row in rows_of(tmp_path / "run"))
    assert set(errors) == {"", "Shed"}
    assert (peaks["d1"][0], peaks["e1"][0], peaks["c1"][0]) == (QUEUE, 2, 6)  # the cloud, of two leaders


def test_a_backlog_that_is_never_reached_changes_no_latency_and_adds_only_words_of_room(tmp_path: Path) -> None:
    rows = {}
    for name, bounds in (("without", {}), ("with", {"edge": 1000, "cloud": 1000})):
        asked = scenario("edge-only", 40, 1.0, bounds)
        run(asked, SimBackend(), tmp_path / name)
        rows[name] = rows_of(tmp_path / name)
    for one, other in zip(rows["without"], rows["with"], strict=True):
        assert float(other["latency_s"]) == pytest.approx(float(one["latency_s"]), abs=1e-5)  # six bytes more of a tensor
        assert 0 < int(other["access_bytes"]) - int(one["access_bytes"]) < 300


@pytest.mark.parametrize("route", ["relay", "direct"])
@pytest.mark.parametrize("planner", ["d3", "modnn", "deepthings", "coedge", "hpa", "random"])
def test_whatever_the_plan_nobody_waits_for_ever(tmp_path: Path, planner: str, route: str, peaks: dict[str, list[int]]) -> None:
    """Tiles, borders, stolen tiles, several tiers: a deadlock would be a request that ends with DeadlineExceeded."""
    draws = random.Random(f"{planner} {route}")
    for seed in range(2):
        backlog = {"edge": draws.randint(1, 3), "cloud": draws.randint(1, 3)}
        asked = scenario(planner, 60, draws.choice((30.0, 300.0)), backlog, route)
        speeds = {tier: table.model_copy(update={"speed": 10 ** draws.uniform(-2.5, 0)}) for tier, table in asked.hosts.items()}
        backend = Watched(SimBackend(), KEPT_S, left_in_sim)
        peaks.clear()
        carried = carry_out(asked.model_copy(update={"seed": seed, "hosts": speeds}), backend, tmp_path / str(seed))
        assert set(carried.failed) <= {"Shed"}, (backlog, carried.failed)
        assert [text for text in carried.wrong if " took " not in text] == []
        assert peaks["e1"][0] <= 2 * backlog["edge"]
        assert all(helped <= 2 * backlog["edge"] for _, helped in peaks.values())
        assert peaks["c1"][0] <= 3 * backlog["cloud"] + (2 * backlog["edge"] if route == "direct" else 0)


# -- while hosts die ---------------------------------------------------------------------------------------------------------


def overloaded(seed: int) -> Scenario:
    """A scenario of chaos with more requests than can be served, in which the slowest host dies, too."""
    draws = random.Random(seed)
    asked = draw(seed, tensors="sizes", requests=200)
    backlog = {tier: {"backlog": draws.randint(1, 3)} for tier in ("edge", "cloud")}
    hosts = {tier: table.model_copy(update=backlog.get(tier, {})) for tier, table in asked.hosts.items()}
    slowest = min(("edge", "cloud"), key=lambda tier: hosts[tier].speed or 1.0)
    death = {"kind": "kill", "at": f"{draws.uniform(0.5, 3.0)} s", "host": {"edge": "e1", "cloud": "c1"}[slowest]}
    if draws.random() < 0.7:
        death["for"] = f"{draws.uniform(0.05, 2.0)} s"
    load = {"arrival": "poisson", "rate": 60.0, "count": 300 // asked.topology.devices, "queue": QUEUE, "think_time": 0.0}
    more = {"hosts": hosts, "requests": asked.requests.model_copy(update=load)}
    return asked.model_copy(update={**more, "fault": (*asked.fault, FaultTable.model_validate(death))})


@pytest.mark.parametrize("seed", [1, 2, 3, 4, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(5, 41))])
def test_under_overload_and_faults_all_promises_hold_and_no_window_stays_shut(tmp_path: Path, seed: int) -> None:
    asked = overloaded(seed)
    ended = carry_out(asked, Watched(SimBackend(), KEPT_S, left_in_sim), tmp_path / "run")
    judge(ended, "sizes")
    assert ended.failed["Shed"] < ended.requests


def test_a_slow_host_that_dies_full_and_comes_back_is_used_again(tmp_path: Path, peaks: dict[str, list[int]]) -> None:
    asked = scenario(
        "edge-only",
        400,
        100.0,
        {"edge": 2},
        fault=[{"kind": "kill", "at": "1 s", "for": "1 s", "host": "e1"}],
        recovery={"mode": "restart"},
        topology={"devices": 2, "edges": 1},
    )
    run(asked, SimBackend(), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    each_ended_once(rows, 400)
    errors = Counter(row["error"] for row in rows)
    assert set(errors) <= {"", "Shed", "HostUnreachable"}
    assert peaks["e1"][0] <= 4
    assert any(not row["error"] and float(row["submitted_s"]) > 2.5 for row in rows)


# -- scenario ----------------------------------------------------------------------------------------------------------------


def test_a_host_takes_its_own_backlog_before_that_of_its_tier() -> None:
    asked = scenario("edge-only", 1, 1.0, {"edge": 4, "cloud": 5})
    hosts = {**asked.hosts, "e2": asked.hosts["edge"].model_copy(update={"backlog": 1})}
    asked = asked.model_copy(update={"hosts": hosts})
    everybody = [Host("d1", "device"), Host("d2", "device"), Host("e1", "edge"), Host("e2", "edge"), Host("c1", "cloud")]
    found = {host.name: windows(asked, host, everybody) for host in everybody}
    assert found["d1"] == found["d2"] == {"windows": {"e1": 4, "e2": 1, "c1": 5}}
    assert found["e1"] == found["e2"] == {"windows": {"c1": 5}}
    assert found["c1"] == {}


@pytest.mark.parametrize("key", ["device", "d1"])
def test_a_backlog_of_a_device_would_do_nothing_and_is_refused(tmp_path: Path, key: str) -> None:
    asked = scenario("edge-only", 1, 1.0, {})
    hosts = {**asked.hosts, key: asked.hosts["device"].model_copy(update={"backlog": 2})}
    with pytest.raises(ScenarioError, match=r"\[hosts\.d1\]: backlog does nothing on a device.*requests\.queue"):
        run(asked.model_copy(update={"hosts": hosts}), SimBackend(), tmp_path / "run")


# -- with real TCP -----------------------------------------------------------------------------------------------------------


@pytest.mark.emulation
@pytest.mark.slow
def test_over_mininet_too_the_edge_holds_no_more_than_its_backlog(tmp_path: Path) -> None:
    links = {role: {"rate": "100 Mbit/s"} for role in ("access", "lan", "backbone")}
    asked = scenario("d3", 80, 40.0, {"edge": 1, "cloud": 2}, links=links)
    run(asked, MininetBackend(), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    each_ended_once(rows, 80)
    assert set(Counter(row["error"] for row in rows)) <= {"", "Shed"}
    facts = facts_of(tmp_path / "run")
    assert facts["requests"] == facts["over"]
    assert facts["stray_ends"] == 0
