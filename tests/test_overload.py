"""More requests than can be served: shed or refused by name, the rest in time, every one ends once, and memory stays flat."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conformance.scenario import MODEL

from testbed.backends.mininet import MininetBackend
from testbed.backends.sim import SimBackend
from testbed.orchestrator import run
from testbed.orchestrator.overload import LONGEST_PAUSE_S, PAUSE_S, pause_s
from testbed.report.run import load
from testbed.report.tables import failure_lines
from testbed.scenario.load import build
from testbed.scenario.schema import Scenario

CAPACITY = 1 / 0.227872
"""Requests a second that a device serves by itself: AlexNet takes it so long."""
DEADLINE_S, QUEUE = 2.0, 4


def scenario(requests: dict[str, Any], **tables: Any) -> Scenario:
    raw: dict[str, Any] = {
        "name": "overload",
        "model": {"names": ["alexnet"]},
        "topology": {"devices": 2, "edges": 2},
        "links": {"backbone": {"rate": "30 Mbit/s"}},
        "compute": {"tensors": "sizes"},
        "planning": {"planners": ["device-only"], "replan": "never"},
    }
    return build({**raw, **tables, "requests": {"deadline": f"{DEADLINE_S} s", **requests}})


def five_times(count: int, **requests: Any) -> dict[str, Any]:
    """Requests at five times the rate that a device serves by itself."""
    return {"arrival": "fixed", "rate": f"{5 * CAPACITY} /s", "count": count, **requests}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "inferences.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["warmup"] == "false"]


def facts_of(folder: Path) -> Any:
    (session,) = json.loads((folder / "fidelity.json").read_text())["sessions"]
    return session["facts"]


def each_ended_once(rows: list[dict[str, str]], count: int) -> None:
    ends = Counter((row["device"], int(row["request"])) for row in rows)
    devices = {device for device, _ in ends}
    assert ends == Counter((device, number) for device in devices for number in range(count))


# -- at the source -----------------------------------------------------------------------------------------------------------


def test_what_a_device_has_no_room_for_is_shed_and_the_rest_is_in_time(tmp_path: Path) -> None:
    done = run(scenario(five_times(500, queue=QUEUE)), SimBackend(), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    each_ended_once(rows, 500)
    assert {row["error"] for row in rows} == {"", "Shed"}
    assert "the most that requests.queue allows" in {row["error_text"] for row in rows if row["error"]}.pop()
    served = [row for row in rows if not row["error"]]
    assert max(float(row["latency_s"]) for row in served) <= QUEUE / CAPACITY + 0.01 < DEADLINE_S
    assert len(served) == pytest.approx(len(rows) / 5, rel=0.05)  # as many as it can serve, neither more nor fewer
    shed = [row for row in rows if row["error"]]
    assert {row["backbone_bytes"] + row["access_bytes"] for row in shed} == {"00"}
    assert {row["latency_s"] for row in shed} == {""}
    (pair,) = done.pairs
    assert (pair.shed, pair.failed, pair.requests) == (len(shed), len(shed), len(rows))
    facts = facts_of(tmp_path / "run")
    assert (facts["shed"], facts["failed"], facts["over"]) == (len(shed), 0, facts["requests"])
    assert done.verdict == "trusted"
    (line,) = failure_lines(load(tmp_path / "run"))
    assert f"{len(shed)} shed with Shed" in line


def test_without_a_bound_the_same_load_breaks_deadlines(tmp_path: Path) -> None:
    run(scenario(five_times(200)), SimBackend(), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    each_ended_once(rows, 200)
    assert Counter(row["error"] for row in rows)["DeadlineExceeded"] > 100


def test_a_bound_that_is_not_reached_changes_no_row(tmp_path: Path) -> None:
    for name, more in (("without", {}), ("with", {"queue": 1000})):
        run(scenario({"arrival": "poisson", "rate": "3 /s", "count": 60, **more}), SimBackend(), tmp_path / name)
    assert (tmp_path / "with" / "inferences.csv").read_bytes() == (tmp_path / "without" / "inferences.csv").read_bytes()


def test_a_closed_loop_has_one_request_at_a_time_and_sheds_none(tmp_path: Path) -> None:
    run(scenario({"count": 20, "queue": 1}), SimBackend(), tmp_path / "run")
    assert {row["error"] for row in rows_of(tmp_path / "run")} == {""}


@pytest.mark.slow
def test_memory_is_flat_however_long_it_lasts(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            run(scenario(five_times(count, queue=QUEUE)), SimBackend(), tmp_path / str(count))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # what is imported and cached once
    assert peak(4000) < 1.2 * peak(1000)
    each_ended_once(rows_of(tmp_path / "4000"), 4000)


# -- at a host ---------------------------------------------------------------------------------------------------------------


def test_a_host_that_has_enough_in_hand_refuses_by_name(tmp_path: Path) -> None:
    asked = scenario(
        {"arrival": "fixed", "rate": "10 /s", "count": 100},
        hosts={"cloud": {"in_flight": 2, "speed": 0.01}},
        planning={"planners": ["cloud-only"], "replan": "never"},
        links={"backbone": {"rate": "1 Gbit/s"}},
    )
    done = run(asked, SimBackend(), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    each_ended_once(rows, 100)
    errors = Counter(row["error"] for row in rows)
    assert errors["Overloaded"] > 0
    assert errors[""] > 0
    assert {row["error_text"].split(" has ")[0] for row in rows if row["error"] == "Overloaded"} == {"c1"}
    assert done.pairs[0].shed == errors["Overloaded"]


def test_a_closed_loop_that_is_refused_waits_longer_each_time(tmp_path: Path) -> None:
    """Both devices ask for the one request that the cloud takes at a time."""
    asked = scenario(
        {"count": 60, "warmup": 0},
        hosts={"cloud": {"in_flight": 1, "speed": 0.01}},
        planning={"planners": ["cloud-only"], "replan": "never"},
        links={"backbone": {"rate": "1 Gbit/s"}},
    )
    run(asked, SimBackend(), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    each_ended_once(rows, 60)
    errors = Counter(row["error"] for row in rows)
    assert errors["Overloaded"] > 0
    assert errors[""] > 0
    for device in ("d1", "d2"):
        own = sorted((row for row in rows if row["device"] == device), key=lambda row: int(row["request"]))
        refusals = 0
        for row, following in pairwise(own):
            refusals = refusals + 1 if row["error"] else 0
            gap = float(following["submitted_s"]) - float(row["submitted_s"])
            assert gap >= pause_s(refusals) - 1e-9


def test_pauses_double_to_a_limit() -> None:
    assert [pause_s(n) for n in range(4)] == [0.0, PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S]
    assert pause_s(10) == pause_s(10_000) == LONGEST_PAUSE_S


# -- with real TCP -----------------------------------------------------------------------------------------------------------


@pytest.mark.emulation
@pytest.mark.slow
def test_over_mininet_too_what_is_too_much_is_shed_and_the_rest_is_in_time(tmp_path: Path) -> None:
    asked = scenario(
        {"arrival": "fixed", "rate": "100 /s", "count": 100, "queue": QUEUE, "deadline": "20 s"},
        model={"names": [MODEL]},
        links={"backbone": {"rate": "2 Mbit/s"}},
        planning={"planners": ["cloud-only"], "replan": "never"},
    )
    done = run(asked, MininetBackend(), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    each_ended_once(rows, 100)
    errors = Counter(row["error"] for row in rows)
    assert set(errors) == {"", "Shed"}
    assert errors["Shed"] > 50
    assert done.pairs[0].shed == errors["Shed"]
    facts = facts_of(tmp_path / "run")
    assert facts["requests"] == facts["over"]
    assert facts["stray_ends"] == 0
