"""Whatever goes wrong, every request ends once, in time, with the right answer or a named error; and others do what is lost."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fault_runs import AT_S, DEADLINE_S, ON_THE_BACKBONE_S, fault, faulty
from orchestration import scenario

import analysis
from testbed.backends.sim import SimBackend
from testbed.cli import main
from testbed.errors import AgentError
from testbed.orchestrator import run
from testbed.scenario.load import load

DETECT_S = 0.6


def plans(outcome: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (outcome.folder / "plans.jsonl").read_text().splitlines()]


EVERY = {
    "kill": fault("kill", host="e2"),
    "kill and restart": fault("kill", host="e2", **{"for": "1 s"}),
    "kill the leader": fault("kill", host="e1"),
    "kill the cloud": fault("kill", host="c1", **{"for": "2 s"}),
    "kill the device": fault("kill", host="d1", **{"for": "2 s"}),
    "hang": fault("hang", host="e3", **{"for": "2 s"}),
    "hang for good": fault("hang", host="e1"),
    "hang the cloud": fault("hang", host="c1", **{"for": "2 s"}),
    "hang the device": fault("hang", host="d1", **{"for": "2 s"}),
    "hang too short to be noticed": fault("hang", host="e2", **{"for": "0.3 s"}),
    "slow": fault("slow", host="e2", factor=4, **{"for": "2 s"}),
    "down": fault("down", link="backbone", **{"for": "2 s"}),
    "down, one way": fault("down", link="backbone", direction="down", **{"for": "2 s"}),
    "down, in the LAN": fault("down", link="lan-e2", **{"for": "2 s"}),
    "flap": fault("flap", link="access-d1", period="0.4 s", **{"for": "2 s"}),
    "flap slowly": fault("flap", link="backbone", period="3 s", **{"for": "6 s"}),
    "loss": fault("loss", link="backbone", loss="20 %", **{"for": "2 s"}),
    "partition": fault("partition", hosts=["d1"], **{"for": "2 s"}),
    "partition of edge hosts": fault("partition", hosts=["e1", "e2"], **{"for": "2 s"}),
    "orchestrator": fault("orchestrator", **{"for": "1 s"}),
    "corrupt": fault("corrupt", host="d1", peer="e1"),
    "corrupt the way back": fault("corrupt", host="c1", peer="d1"),
    "truncate": fault("truncate", host="e1", peer="e2"),
    "with a request": {"kind": "kill", "host": "e2", "when": "request 4"},
}


@pytest.mark.parametrize("mode", ["resume", "restart"])
@pytest.mark.parametrize("name", EVERY)
def test_requests_end_once_and_in_time_whatever_goes_wrong(tmp_path: Path, name: str, mode: str) -> None:
    outcome = faulty(tmp_path / "run", EVERY[name], recovery={"mode": mode})
    assert outcome.faults[0]["begin_s"]
    assert outcome.fidelity["verdict"] != "rejected"
    if "device" not in name:
        assert not outcome.errors
    assert not outcome.rows[-1]["error"], "in the end all is well, or planned around"


@pytest.mark.parametrize("kind", ["kill", "hang"])
def test_the_tiles_of_a_lost_host_go_to_the_others_within_one_detection_period(tmp_path: Path, kind: str) -> None:
    outcome = faulty(tmp_path / "run", fault(kind, host="e2"))
    (told,) = outcome.faults
    assert float(told["replanned_s"]) - AT_S <= DETECT_S
    assert outcome.hosts_after(float(told["replanned_s"])) == {"e1", "e3", "e4"}


def test_a_death_is_noticed_at_once_and_silence_after_the_detection_period(tmp_path: Path) -> None:
    for kind, after_s in (("kill", 0.0), ("hang", DETECT_S)):
        (told,) = faulty(tmp_path / kind, fault(kind, host="e2")).faults
        latest_s = after_s + 1e-6
        assert after_s - 0.2 <= float(told["noticed_s"]) - AT_S <= latest_s


def test_after_the_last_edge_host_device_and_cloud_go_on_alone(tmp_path: Path) -> None:
    deaths = [fault("kill", at=f"{i}.0 s", host=f"e{i}") for i in range(1, 5)]
    outcome = faulty(tmp_path / "run", *deaths)
    assert not outcome.errors
    last = [plan["plan"] for plan in plans(outcome) if plan["installed"]][-1]
    assert set(last["tiers"]) == {"device", "cloud"}
    assert all(float(row["lan_bytes"]) == 0 for row in outcome.rows if float(row["submitted_s"]) > 4.0)


def test_a_host_that_comes_back_is_used_again(tmp_path: Path) -> None:
    for kind in ("kill", "hang"):
        outcome = faulty(tmp_path / kind, fault(kind, host="e2", **{"for": "1.5 s"}))
        assert outcome.hosts_after(3.2) == {"e1", "e2", "e3", "e4"}
        assert [event["host"] for event in outcome.of("host_back")] == ["e2"]


@pytest.mark.parametrize("cause", [fault("kill", host="c1"), fault("hang", host="c1"), fault("down", link="backbone")])
@pytest.mark.parametrize("planner", ["d3", "optimal", "hpa", "dads"])
def test_without_the_cloud_answers_are_local_where_the_planner_can(tmp_path: Path, cause: Any, planner: str) -> None:
    outcome = faulty(tmp_path / "run", cause, planning={"planners": [planner]})
    assert not outcome.errors
    last = [plan["plan"] for plan in plans(outcome) if plan["installed"]][-1]
    assert "cloud" not in last["tiers"]


@pytest.mark.parametrize("cause", [fault("kill", host="c1"), fault("down", link="backbone")])
def test_without_the_cloud_a_planner_that_needs_it_gives_named_errors_and_does_not_spin(tmp_path: Path, cause: Any) -> None:
    outcome = faulty(tmp_path / "run", cause, planning={"planners": ["cloud-only"]})
    refused = [row for row in outcome.rows if row["error"] == "HostUnreachable"]
    assert refused
    assert set(outcome.errors) == {"HostUnreachable", "DeadlineExceeded"}, "what flew waits until its deadline, the rest does not"
    assert "needs c1" in refused[0]["error_text"]
    starts = [float(row["submitted_s"]) for row in refused]
    assert all(later - earlier >= DETECT_S - 1e-6 for earlier, later in pairwise(starts))


def test_a_planner_that_needs_the_cloud_goes_on_when_it_is_back(tmp_path: Path) -> None:
    outcome = faulty(tmp_path / "run", fault("kill", host="c1", **{"for": "2 s"}), planning={"planners": ["cloud-only"]})
    assert not outcome.errors
    (row,) = outcome.resumed
    assert 1.5 < float(row["recovered_s"]) < 2.5


def test_resuming_is_faster_than_starting_again(tmp_path: Path) -> None:
    """The leader has the input when a helper dies: it is not sent again. Later it has what the cloud was sent, too."""
    for at, victim in ((f"{AT_S} s", "e2"), (f"{ON_THE_BACKBONE_S} s", "c1")):
        latency = {}
        for mode in ("resume", "restart"):
            outcome = faulty(tmp_path / f"{mode}{victim}", fault("kill", at=at, host=victim), recovery={"mode": mode})
            (row,) = outcome.resumed
            latency[mode] = float(row["latency_s"])
            assert row["recoveries"] == "1"
        assert latency["resume"] < latency["restart"] - 0.08


def test_nothing_of_it_is_on_record_without_faults(tmp_path: Path) -> None:
    run(scenario(), SimBackend(), tmp_path / "run")
    assert not (tmp_path / "run" / "faults.csv").exists()
    assert "recoveries" not in next(csv.reader((tmp_path / "run" / "inferences.csv").read_text().splitlines()))


def test_reports_and_frames_tell_of_faults_and_recoveries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = faulty(tmp_path / "run", fault("kill", host="e2"), fault("slow", at="2 s", host="e3", factor=2)).folder
    results = analysis.load(folder)
    assert list(results.faults["kind"]) == ["kill", "slow"]
    assert list(results.faults["resumed"]) == [1, 0]
    assert results.inferences["recoveries"].sum() == 1
    assert results.inferences["recovered_s"].notna().sum() == 1
    assert main(["report", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"vgg16 by d3: kill e2 at {AT_S} s, noticed after 0 s, planned around after 0 s, 1 request went on" in said
    assert "slow e3 at 2 s\n" in said


def test_without_recovery_a_death_ends_the_run_as_ever(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="e2 is gone"):
        faulty(tmp_path / "run", fault("kill", host="e2"), recovery={"mode": "none"})


def test_the_same_seed_gives_the_same_rows(tmp_path: Path) -> None:
    faults = [EVERY["hang"], EVERY["flap slowly"], fault("kill", at="2.5 s", host="e1", **{"for": "1 s"}), EVERY["orchestrator"]]
    busy = {"requests": {"arrival": "poisson", "rate": "5 /s", "count": 30}, "topology": {"devices": 2}}
    texts = []
    for name in ("one", "two"):
        folder = faulty(tmp_path / name, *faults, **busy).folder
        texts.append([(folder / table).read_text() for table in ("inferences.csv", "faults.csv", "links.csv", "steps.csv")])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("planner", ["d3", "dina"])
@pytest.mark.parametrize("arrival", ["closed", "poisson"])
def test_two_devices_recover_beside_each_other(tmp_path: Path, arrival: str, planner: str) -> None:
    requests = {"arrival": arrival, **({"rate": "4 /s"} if arrival == "poisson" else {})}
    outcome = faulty(
        tmp_path / "run",
        fault("kill", host="e1", **{"for": "1.5 s"}),
        fault("hang", at="3.5 s", host="e2"),
        topology={"devices": 2},
        requests=requests,
        planning={"planners": [planner]},
    )
    assert not outcome.errors
    assert {row["device"] for row in outcome.rows if float(row["submitted_s"]) > 3.5} == {"d1", "d2"}


def test_real_answers_are_the_whole_models_after_every_recovery(tmp_path: Path) -> None:
    slow = {tier: {"speed": speed} for tier, speed in (("device", 0.002), ("edge", 0.004), ("cloud", 0.01))}
    outcome = faulty(
        tmp_path / "run",
        fault("kill", at="0.5 s", host="e2", **{"for": "1 s"}),
        fault("kill", at="1.0 s", host="e1", **{"for": "1 s"}),
        fault("hang", at="2.0 s", host="c1", **{"for": "1 s"}),
        fault("orchestrator", at="3.0 s", **{"for": "0.3 s"}),
        model={"names": ["model_blocks:Residual"]},
        compute={"tensors": "real"},
        hosts=slow,
        requests={"arrival": "fixed", "rate": "8 /s", "count": 40},
        planning={"planners": ["d3", "hpa", "modnn", "aofl"]},
    )
    assert not outcome.errors
    assert outcome.resumed


def test_a_request_that_loses_too_many_hosts_fails_by_name(tmp_path: Path) -> None:
    deaths = [fault("kill", at=f"1.{i}5 s", host=f"e{i}") for i in range(1, 4)]
    outcome = faulty(
        tmp_path / "run", *deaths, recovery={"attempts": 1}, hosts={"edge": {"speed": 0.2}}, planning={"planners": ["edge-only"]}
    )
    assert "RecoveryFailed" in outcome.errors


def test_every_session_has_all_faults_and_all_hosts(tmp_path: Path) -> None:
    outcome = faulty(tmp_path / "run", fault("kill", host="e2"), fault("hang", host="e3"), planning={"planners": ["d3", "hpa"]})
    assert [(told["planner"], told["fault"]) for told in outcome.faults] == [("d3", "1"), ("d3", "2"), ("hpa", "1"), ("hpa", "2")]
    assert len({told["noticed_s"] for told in outcome.faults}) == 2


def test_a_slow_link_is_not_taken_for_a_broken_one(tmp_path: Path) -> None:
    """A tensor of 600 kB takes 2.4 s at 2 Mbit/s, and probes wait behind it."""
    links = {"access": {"rate": "2 Mbit/s", "delay": "2 ms"}, "backbone": {"rate": "20 Mbit/s", "delay": "10 ms"}}
    outcome = faulty(
        tmp_path / "run",
        fault("slow", at="1 s", host="e1", factor=1.1),
        links=links,
        requests={"count": 4},
        planning={"planners": ["cloud-only"]},
    )
    assert not outcome.errors
    assert not outcome.of("path_lost")


def test_the_orchestrator_comes_back_to_requests_that_have_ended_without_it(tmp_path: Path) -> None:
    outcome = faulty(tmp_path / "run", fault("orchestrator", **{"for": "2 s"}), requests={"arrival": "fixed", "rate": "5 /s"})
    assert not outcome.errors
    assert not outcome.resumed
    away = [row for row in outcome.rows if AT_S < float(row["due_s"]) < AT_S + 2.0]
    assert len(away) == 10
    assert all(float(row["submitted_s"]) > AT_S + 2.0 - 1e-6 for row in away), "nobody was there to submit them"
    assert next(plan["reason"] for plan in plans(outcome) if plan["at_s"] > 3.0) == "orchestrator"


def test_a_stopped_wall_clock_and_a_deadline_bound_everything(tmp_path: Path) -> None:
    """All that could answer is gone for good: what was submitted before ends at its deadline."""
    outcome = faulty(
        tmp_path / "run",
        *(fault("hang", host=host) for host in ("e1", "e2", "e3", "e4", "c1")),
        planning={"planners": ["cloud-only"]},
        requests={"count": 6},
    )
    flying = [row for row in outcome.rows if row["error"] == "DeadlineExceeded"]
    assert len(flying) == 1
    assert outcome.events[-1]["event"] == "run_end"
    assert DEADLINE_S > 0


def test_the_shipped_scenario_shows_a_death_silence_and_an_outage_in_a_minute(tmp_path: Path) -> None:
    run(load("faults"), SimBackend(), tmp_path / "run")
    results = analysis.load(tmp_path / "run")
    d3 = results.only(planner="d3")
    assert not d3.inferences["error"].notna().any()
    told = d3.faults.set_index("kind")
    assert list(told.index) == ["kill", "hang", "down", "orchestrator"]
    assert (told.loc[["kill", "hang", "down"], "resumed"] > 0).all()
    assert (told["end_s"] < 60.0).all()
    assert set(results.only(planner="cloud-only").inferences["error"].dropna()) == {"HostUnreachable"}
