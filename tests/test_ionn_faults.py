"""A server that is lost while a model is uploaded to it, or after that, and comes back: its weights are uploaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fault_runs import Outcome, check, fault, table
from test_ionn import SLOW, SMALL, events, rows, uploading

from d3node.model import ModelSpec, load_graph
from d3node.weights import chunk_bytes, parameters_of
from testbed import registry
from testbed.backends.base import Backend
from testbed.backends.sim import SimBackend
from testbed.orchestrator import run
from testbed.scenario.schema import Scenario

LOCAL_S, REMOTE_S = 1.302, 0.0703
"""A query on the device alone, and with the whole model on the server."""

MIDST = "8 s"
"""The first two parts have arrived by second 1.1; the third, of 234 MB, comes until second 26.7."""

AFTER = "30 s"
PROBES = {"planners": ["ionn"], "probe_interval": "0.5 s", "probe_size": "4 kB"}
EDGE = {"topology": {"devices": 1, "edges": 2}, "planning": {"planners": ["ionn"], "options": {"ionn_server": "edge"}}}
BACK = {"for": "3 s"}


def outcome(folder: Path, *faults: dict[str, Any], backend: Backend | None = None, **tables: Any) -> Outcome:
    """A run with faults in which every request has ended once, with the whole model's answer or an error that has a name."""
    requests = {"count": 70, "warmup": 1, "think_time": "0.5 s", "deadline": "8 s"}
    asked: Scenario = uploading(**{"requests": requests, "fault": list(faults), **tables})
    run(asked, backend or SimBackend(), folder)
    told = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    fidelity = json.loads((folder / "fidelity.json").read_text())
    found = Outcome(rows(folder), table(folder / "faults.csv"), told, fidelity, folder)
    check(found, asked)
    return found


def parts(found: Outcome) -> list[int]:
    return [event["part"] for event in found.of("upload")]


def uploaded(found: Outcome) -> list[int]:
    return [v for event in found.of("upload") for v in event["vertices"]]


GONE: dict[str, tuple[dict[str, Any], dict[str, Any], list[int]]] = {
    "killed in mid-upload": (fault("kill", MIDST, host="c1", **BACK), {}, [0, 1, 0, 1, 2]),
    "killed in the first part": (fault("kill", "0.05 s", host="c1", **BACK), {}, [0, 1, 2]),
    "killed after the upload": (fault("kill", AFTER, host="c1", **BACK), {}, [0, 1, 2, 0, 1, 2]),
    "hung in mid-upload": (fault("hang", MIDST, host="c1", **BACK), {}, [0, 1, 2]),
    "hung too short to be noticed": (fault("hang", MIDST, host="c1", **{"for": "0.3 s"}), {}, [0, 1, 2]),
    "hung after the upload": (fault("hang", AFTER, host="c1", **BACK), {}, [0, 1, 2]),
    "backbone down": (fault("down", MIDST, link="backbone", **BACK), {}, [0, 1, 2]),
    "backbone down, with probes": (fault("down", MIDST, link="backbone", **BACK), {"planning": PROBES}, [0, 1, 2]),
    "access down, with probes": (fault("down", MIDST, link="access-d1", **BACK), {"planning": PROBES}, [0, 1, 2]),
    "backbone flaps": (fault("flap", MIDST, link="backbone", period="2 s", **BACK), {"planning": PROBES}, [0, 1, 2]),
    "orchestrator away": (fault("orchestrator", MIDST, **BACK), {}, [0, 1, 2]),
    "a damaged answer": (fault("corrupt", MIDST, host="c1", peer="d1"), {}, [0, 1, 2]),
    "an edge server killed": (fault("kill", MIDST, host="e1", **BACK), EDGE, [0, 1, 0, 1, 2]),
    "an edge server hung": (fault("hang", MIDST, host="e1", **BACK), EDGE, [0, 1, 2]),
}


@pytest.mark.parametrize("name", GONE)
def test_what_a_lost_server_does_not_hold_when_it_is_back_is_uploaded_again_in_the_planners_order(
    tmp_path: Path, name: str
) -> None:
    """One that was started again holds nothing; one that hung holds the parts that it had, and is not sent them again."""
    what, tables, expected = GONE[name]
    found = outcome(tmp_path / "run", what, **tables)
    assert not found.errors
    assert parts(found) == expected
    last = [float(row["latency_s"]) for row in found.rows[-10:]]
    assert max(last) < 0.1 < LOCAL_S
    total = sum(event["bytes"] for event in found.of("upload"))
    assert int(found.rows[-1]["weights_bytes"]) == total
    graph = load_graph(ModelSpec("alexnet"))
    assert total >= sum(chunk_bytes(parameters_of(graph, (v,))) for v in uploaded(found))


@pytest.mark.parametrize("server", ["c1", "e1"])
@pytest.mark.parametrize("kind", ["kill", "hang"])
def test_while_the_server_is_lost_queries_are_the_devices_own_and_wait_for_nothing(
    tmp_path: Path, kind: str, server: str
) -> None:
    found = outcome(tmp_path / "run", fault(kind, MIDST, host=server), **(EDGE if server == "e1" else {}))
    (lost,) = found.faults
    later = [row for row in found.rows if float(row["submitted_s"]) > float(lost["replanned_s"])]
    assert len(later) > 30
    assert all(float(row["latency_s"]) == pytest.approx(LOCAL_S, rel=1e-3) for row in later)
    assert {row["weights_bytes"] for row in later} == {later[0]["weights_bytes"]}
    assert parts(found) == [0, 1]


def test_after_an_outage_for_good_the_session_ends_and_the_upload_with_it(tmp_path: Path) -> None:
    found = outcome(tmp_path / "run", fault("down", MIDST, link="backbone"), planning=PROBES)
    assert not found.errors
    assert float(found.rows[-1]["latency_s"]) == pytest.approx(LOCAL_S, rel=1e-3)
    assert parts(found)[:2] == [0, 1]


@pytest.mark.parametrize("kind", ["kill", "hang"])
def test_a_device_that_is_back_goes_on_uploading_what_the_server_lacks(tmp_path: Path, kind: str) -> None:
    found = outcome(tmp_path / "run", fault(kind, MIDST, host="d1", **BACK))
    assert set(found.errors) == {"AgentError"}
    assert parts(found) == [0, 1, 2]
    assert float(found.rows[-1]["latency_s"]) == pytest.approx(REMOTE_S, rel=1e-3)


@pytest.mark.parametrize(("host", "expected"), [("c1", [0, 1, 0, 1, 2]), ("d1", [0, 1, 2])])
def test_another_orchestrator_asks_what_the_server_holds(tmp_path: Path, host: str, expected: list[int]) -> None:
    """One of the two hosts was started again while nobody looked."""
    away = fault("orchestrator", MIDST, **BACK)
    found = outcome(tmp_path / "run", away, fault("kill", "9 s", host=host, **{"for": "1 s"}))
    assert parts(found) == expected
    assert float(found.rows[-1]["latency_s"]) == pytest.approx(REMOTE_S, rel=1e-3)


def test_a_server_that_is_lost_again_and_again_is_filled_in_the_end_and_the_same_seed_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    again = [fault("kill", f"{at} s", host="c1", **{"for": "0.5 s"}) for at in (0.1, 2, 4, 8, 8.7)]
    for name in ("a", "b"):
        found = outcome(tmp_path / name, *again, fault("hang", "12 s", host="c1", **BACK))
        assert not found.errors
        assert parts(found)[-1] == 2
        assert float(found.rows[-1]["latency_s"]) == pytest.approx(REMOTE_S, rel=1e-3)
    for file in ("inferences.csv", "links.csv", "faults.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert events(tmp_path / "a", "upload") == events(tmp_path / "b", "upload")


@pytest.mark.parametrize("kind", ["kill", "hang"])
def test_the_next_planner_finds_the_servers_own_weights_again(tmp_path: Path, kind: str) -> None:
    planners = {"planners": ["ionn", "cloud-only", "ionn-all"]}
    requests = {"count": 8, "think_time": "0.5 s", "deadline": "8 s"}
    found = outcome(tmp_path / "run", fault(kind, "2 s", host="c1", **BACK), planning=planners, requests=requests)
    straight = [row for row in found.rows if row["planner"] == "cloud-only" and not row["error"]]
    assert straight
    assert all(float(row["compute_device_s"]) == 0.0 for row in straight)


def test_real_answers_come_from_the_weights_that_came_again(tmp_path: Path) -> None:
    faults = (fault("kill", "2 s", host="c1", **{"for": "1 s"}), fault("hang", "8 s", host="c1", **{"for": "2 s"}))
    requests = {"count": 24, "warmup": 1, "think_time": "0.05 s"}
    found = outcome(tmp_path / "run", *faults, model={"names": [SMALL]}, compute={"tensors": "real"}, requests=requests, **SLOW)
    assert not found.errors
    assert {row["correct"] for row in found.rows} == {"true"}
    assert float(found.rows[-1]["compute_cloud_s"]) > 0.0
    assert len(uploaded(found)) > len(set(uploaded(found)))


@pytest.mark.emulation
@pytest.mark.slow
def test_over_mininet_a_server_that_was_killed_is_sent_its_weights_again(tmp_path: Path) -> None:
    found = outcome(
        tmp_path / "run",
        fault("kill", "2 s", host="c1", **{"for": "1 s"}),
        fault("hang", "8 s", host="c1", **{"for": "2 s"}),
        backend=registry.backend("mininet"),
        model={"names": [SMALL]},
        compute={"tensors": "real"},
        requests={"count": 24, "warmup": 1, "think_time": "0.05 s", "deadline": "10 s"},
        planning={"planners": ["ionn"], "knowledge": "true"},
        recovery={"heartbeat": "0.3 s", "detect": "1.2 s"},
        **SLOW,
    )
    assert not found.errors, found.rows
    assert {row["correct"] for row in found.rows} == {"true"}
    assert {event["host"] for event in found.of("host_back")} == {"c1"}
    assert len(uploaded(found)) > len(set(uploaded(found)))
    assert float(found.rows[-1]["compute_cloud_s"]) > 0.0
