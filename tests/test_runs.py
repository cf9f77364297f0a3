"""Whole runs in `sim`: repeatable to the byte, honest about failures, and nothing lost when they are cut off."""

from __future__ import annotations

import csv
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from orchestration import SMALL, scenario, swinging

from testbed import registry
from testbed.backends.sim import SimBackend
from testbed.errors import AgentError, InputError, RunError
from testbed.orchestrator import run, summarise
from testbed.scenario.load import load, shipped
from testbed.scenario.schema import Scenario


def rows(folder: Path, name: str = "inferences.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def document(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def changing(tmp_path: Path, **planning: Any) -> Scenario:
    """AlexNet behind a backbone that swings, so that its best cut moves."""
    return scenario(
        model={"names": ["alexnet"]},
        links={
            "access": {"rate": "50 Mbit/s", "delay": "2 ms"},
            "backbone": {"trace": swinging(tmp_path), "delay": "10 ms", "trace_direction": "up", "rate_down": "50 Mbit/s"},
        },
        hosts={"edge": {"profile": "raspberry-pi-4"}},
        requests={"count": 60, "arrival": "fixed", "rate": "3 /s"},
        planning={"knowledge": "true", "samples": 1, **planning},
    )


def test_the_same_scenario_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    known = scenario(
        topology={"devices": 3, "edges": 2},
        links={"access": {"rate": "30 Mbit/s", "delay": "3 ms"}, "backbone": {"trace": "lte-like", "delay": "15 ms"}},
        requests={"count": 30, "arrival": "poisson", "rate": "5 /s"},
        planning={"planners": ["cloud-only", "d3"], "probe_interval": "0.5 s"},
    )
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        assert run(known, SimBackend(), folder).verdict == "trusted"
    for name in ("inferences.csv", "links.csv"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    again = known.model_copy(update={"seed": 4})
    run(again, SimBackend(), tmp_path / "c")
    assert (tmp_path / "c" / "inferences.csv").read_bytes() != (folders[0] / "inferences.csv").read_bytes()


def test_every_request_of_every_session_has_one_row(tmp_path: Path) -> None:
    known = scenario(
        topology={"devices": 2, "edges": 2}, planning={"planners": ["hpa", "cloud-only"]}, requests={"count": 4, "warmup": 2}
    )
    run(known, SimBackend(), tmp_path / "run")
    found = Counter((r["planner"], r["device"], r["warmup"], r["request"]) for r in rows(tmp_path / "run"))
    expected = {
        (planner, device, warmup, str(i))
        for planner in ("hpa", "cloud-only")
        for device in ("d1", "d2")
        for warmup, count in (("true", 2), ("false", 4))
        for i in range(count)
    }
    assert found == Counter(expected)


def test_real_tensors_are_compared_with_the_whole_model(tmp_path: Path) -> None:
    known = scenario(compute={"tensors": "real"}, planning={"planners": ["device-only", "hpa", "d3", "cloud-only"]})
    summary = run(known, SimBackend(), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert len(found) == 24
    assert {r["correct"] for r in found} == {"true"}
    assert [pair.wrong for pair in summary.pairs] == [0, 0, 0, 0]
    assert summary.verdict == "trusted", summary.failing


def test_a_device_alone_sends_nothing_and_a_cloud_gets_the_input(tmp_path: Path) -> None:
    known = scenario(planning={"planners": ["device-only", "cloud-only"]})
    alone, cloud = run(known, SimBackend(), tmp_path / "run").pairs
    assert alone.backbone_bytes == 0
    assert alone.backbone_wire_bytes == 0
    tensor = 3 * 33 * 29 * 4
    assert tensor < cloud.backbone_bytes < tensor + 400
    found = [r for r in rows(tmp_path / "run") if r["planner"] == "cloud-only" and r["warmup"] == "false"]
    at_best = 0.010 + tensor * 8 / 20e6
    assert all(at_best < float(r["transfer_backbone_s"]) < at_best * 1.1 for r in found)


def test_the_travelling_encoding_decides_the_bytes_of_the_cloud(tmp_path: Path) -> None:
    sizes = {}
    for encoding in ("float32", "uint8"):
        known = scenario(
            model={"names": [SMALL], "input_encoding": encoding},
            planning={"planners": ["cloud-only"]},
            compute={"tensors": "real"},
        )
        summary = run(known, SimBackend(), tmp_path / encoding)
        sizes[encoding] = summary.pairs[0].backbone_bytes
        assert summary.manifest["input_encoding"] == encoding
        assert summary.pairs[0].wrong == 0
    assert sizes["float32"] - sizes["uint8"] == pytest.approx(3 * 33 * 29 * 3, abs=8)


@pytest.mark.parametrize("knowledge", ["true", "estimated"])
def test_a_changing_backbone_makes_the_planner_change_its_plan(tmp_path: Path, knowledge: str) -> None:
    known = changing(tmp_path, knowledge=knowledge, probe_interval="0.5 s")
    pair = run(known, SimBackend(), tmp_path / "run").pairs[0]
    plans = lines(tmp_path / "run", "plans.jsonl")
    assert pair.plan_changes >= 2
    assert pair.failed == 0
    assert [p["reason"] for p in plans] == ["first", *["change"] * pair.replans]
    causes = ["edge_cloud" in p["change"]["paths"] for p in plans[1:]]
    assert all(causes) if knowledge == "true" else sum(causes) >= 2, "estimates may have other causes, too"
    used = {int(r["epoch"]) for r in rows(tmp_path / "run")}
    assert used == {p["epoch"] for p in plans if p["installed"]} or used < {p["epoch"] for p in plans if p["installed"]}
    assert len(used) >= 3


def test_partial_replanning_touches_fewer_vertices_than_full(tmp_path: Path) -> None:
    touched = {}
    for how in ("partial", "full", "never"):
        pair = run(changing(tmp_path, replan=how), SimBackend(), tmp_path / how).pairs[0]
        touched[how] = pair.touched_vertices
        assert (pair.replans > 0) == (how != "never")
    assert touched["never"] == 0 < touched["partial"] < touched["full"]


def test_a_switch_of_plans_drops_no_request_in_flight(tmp_path: Path) -> None:
    known = changing(tmp_path)
    known = known.model_copy(update={"requests": known.requests.model_copy(update={"rate": 12.0, "count": 250})})
    run(known, SimBackend(), tmp_path / "run")
    found = [r for r in rows(tmp_path / "run") if r["warmup"] == "false"]
    assert not [r["error"] for r in found if r["error"]]
    installed = {p["epoch"]: p["at_s"] for p in lines(tmp_path / "run", "plans.jsonl") if p["installed"]}
    crossing = [
        r
        for r in found
        for at in installed.values()
        if float(r["submitted_s"]) < at < float(r["submitted_s"]) + float(r["latency_s"]) and installed[int(r["epoch"])] < at
    ]
    assert crossing, "some requests were in flight, on the old plan, while a new one was installed"


@pytest.mark.parametrize("arrival", ["closed", "fixed", "poisson"])
def test_all_ways_of_arrival(tmp_path: Path, arrival: str) -> None:
    requests = {"count": 6, "arrival": arrival, "rate": "20 /s"} if arrival != "closed" else {"count": 6, "think_time": "50 ms"}
    run(scenario(requests=requests), SimBackend(), tmp_path / "run")
    found = [r for r in rows(tmp_path / "run") if r["warmup"] == "false"]
    submitted = [float(r["submitted_s"]) for r in found]
    assert len(found) == 6
    if arrival == "fixed":
        assert submitted == pytest.approx([i * 0.05 for i in range(6)])
    elif arrival == "poisson":
        assert submitted == pytest.approx([float(r["due_s"]) for r in found])
    else:
        gaps = [b - a - float(r["latency_s"]) for a, b, r in zip(submitted, submitted[1:], found, strict=False)]
        assert gaps == pytest.approx([0.05] * 5, abs=1e-6)


def test_a_request_that_misses_its_deadline_is_a_named_failure(tmp_path: Path) -> None:
    known = scenario(
        links={"access": {"rate": "50 Mbit/s"}, "backbone": {"rate": "10 kbit/s"}},
        requests={"count": 3, "warmup": 0, "deadline": "0.5 s"},
        planning={"planners": ["cloud-only"]},
    )
    summary = run(known, SimBackend(), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert len(found) == 3
    assert all(r["error"] and r["error_text"] and not r["latency_s"] for r in found)
    assert (summary.pairs[0].failed, summary.pairs[0].requests) == (3, 3)
    assert summary.verdict == "rejected"
    assert any("failed_requests = 1" in line for line in summary.failing)


class Killing(SimBackend):
    """Kills an agent when the run has come to a certain progress."""

    session: Any = None

    def run(self, scenario: Scenario, main: Any) -> Any:
        async def with_session(session: Any) -> Any:
            self.session = session
            return await main(session)

        return super().run(scenario, with_session)


def test_an_agent_that_dies_fails_the_run_and_loses_no_row(tmp_path: Path) -> None:
    import asyncio

    backend = Killing()
    killing: list[Any] = []

    def listener(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] == 4:
            killing.append(asyncio.get_running_loop().create_task(backend.session.kill("c1")))

    with pytest.raises(AgentError, match="c1"):
        run(scenario(requests={"count": 50}, planning={"planners": ["cloud-only", "hpa"]}), backend, tmp_path / "run", listener)
    found = rows(tmp_path / "run")
    assert 4 <= len(found) < 51
    assert not [r for r in found[:4] if r["error"]]
    manifest = document(tmp_path / "run", "manifest.json")
    assert manifest["status"] == "failed"
    assert "c1" in manifest["reason"]
    fidelity = document(tmp_path / "run", "fidelity.json")
    assert fidelity["verdict"] == "rejected"
    assert "run_complete" in fidelity["failing"][0]
    assert_totals(tmp_path / "run")


def assert_totals(folder: Path) -> None:
    """What the links carried is there, although the session was cut short."""
    with (folder / "links.csv").open(newline="") as file:
        totals = [row for row in csv.DictReader(file) if row["kind"] == "total"]
    assert {row["link"] for row in totals} >= {"backbone", "access-d1"}
    (access,) = [row for row in totals if (row["link"], row["direction"]) == ("access-d1", "up")]
    assert int(access["wire_bytes"]) > int(access["message_bytes"]) > 0


def test_an_interrupt_keeps_every_finished_row(tmp_path: Path) -> None:
    def listener(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] == 9:
            signal.raise_signal(signal.SIGINT)

    known = scenario(topology={"devices": 2, "edges": 1}, requests={"count": 200}, planning={"planners": ["cloud-only"]})
    with pytest.raises(KeyboardInterrupt):
        run(known, SimBackend(), tmp_path / "run", listener)
    found = rows(tmp_path / "run")
    assert len([r for r in found if not r["error"]]) >= 9
    assert {r["error"] for r in found} <= {"", "Interrupted"}
    summary = summarise(tmp_path / "run")
    assert (summary.status, summary.verdict) == ("interrupted", "rejected")
    assert document(tmp_path / "run", "manifest.json")["status"] == "interrupted"
    assert lines(tmp_path / "run", "events.jsonl")[-1] == {"event": "run_end", "status": "interrupted", "verdict": "rejected"}
    assert_totals(tmp_path / "run")


def test_the_wall_limit_ends_a_run_in_words(tmp_path: Path) -> None:
    known = scenario(requests={"count": 1_000_000}, run={"wall_limit": "300 ms"})
    with pytest.raises(RunError, match="wall_limit"):
        run(known, SimBackend(), tmp_path / "run")
    assert len(rows(tmp_path / "run")) > 1


def test_a_folder_with_results_is_not_overwritten(tmp_path: Path) -> None:
    run(scenario(), SimBackend(), tmp_path / "run")
    before = (tmp_path / "run" / "inferences.csv").read_bytes()
    with pytest.raises(InputError, match="not empty"):
        run(scenario(), SimBackend(), tmp_path / "run")
    assert (tmp_path / "run" / "inferences.csv").read_bytes() == before


def test_bytes_reported_and_bytes_counted_agree(tmp_path: Path) -> None:
    known = scenario(planning={"planners": ["cloud-only", "hpa"], "probe_interval": "0.2 s"}, requests={"count": 40})
    summary = run(known, SimBackend(), tmp_path / "run")
    assert summary.verdict == "trusted", summary.failing
    for row in rows(tmp_path / "run", "links.csv"):
        if row["kind"] == "total" and row["link"] == "backbone" and row["direction"] == "up" and int(row["wire_bytes"]) > 100_000:
            assert int(row["wire_bytes"]) == pytest.approx(float(row["framed_bytes"]), rel=0.005)


def test_devices_are_led_by_the_edge_hosts_in_turn(tmp_path: Path) -> None:
    summary = run(scenario(topology={"devices": 3, "edges": 2}), SimBackend(), tmp_path / "run")
    assert summary.manifest["leaders"] == {"d1": "e1", "d2": "e2", "d3": "e1"}


def test_a_planner_of_ones_own_can_be_run(tmp_path: Path) -> None:
    summary = run(scenario(), SimBackend(), tmp_path / "run", planners={"mine": registry.planner("cloud-only")})
    assert [pair.planner for pair in summary.pairs] == ["mine"]


def test_every_model_and_planner_meets_the_same_load_and_the_same_trace(tmp_path: Path) -> None:
    known = changing(tmp_path, planners=["device-only", "cloud-only", "hpa"])
    known = known.model_copy(update={"requests": known.requests.model_copy(update={"arrival": "poisson"})})
    run(known, SimBackend(), tmp_path / "run")
    due: dict[str, list[tuple[str, str, str]]] = {}
    for row in sorted(rows(tmp_path / "run"), key=lambda r: int(r["request"])):
        if row["warmup"] == "false":
            due.setdefault(row["planner"], []).append((row["request"], row["input"], row["due_s"]))
    steps: dict[str, list[tuple[str, str]]] = {}
    for row in rows(tmp_path / "run", "links.csv"):
        if row["kind"] == "state" and row["link"] == "backbone" and row["direction"] == "up":
            steps.setdefault(row["planner"], []).append((row["at_s"], row["rate_bps"]))
    assert due["device-only"] == due["cloud-only"] == due["hpa"]
    shortest = min(len(found) for found in steps.values())
    assert shortest >= 3
    assert len({tuple(found[:shortest]) for found in steps.values()}) == 1


def test_long_runs_forget_finished_requests(tmp_path: Path) -> None:
    import gc

    from d3node.compute import Job
    from d3node.request import Request as Part
    from testbed.orchestrator.tracker import Request

    alive: list[int] = []

    def listener(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] in (100, 400):
            gc.collect()
            alive.append(sum(issubclass(type(thing), Request | Part | Job) for thing in gc.get_objects()))

    run(scenario(requests={"count": 400}, planning={"planners": ["d3"]}), SimBackend(), tmp_path / "run", listener)
    early, late = alive
    assert early > 0
    assert late <= early + 3


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_scenario_runs_and_is_trusted(tmp_path: Path, name: str) -> None:
    known = load(name, ["compute.tensors=sizes", "requests.count=4"])
    summary = run(known, SimBackend(), tmp_path / "run")
    assert (summary.verdict, summary.failing) == ("trusted", [])
    devices = known.requests.origins or known.topology.devices
    sites = {"two_sites": 2, "fleet": known.topology.sites}.get(name, 1)
    assert all(pair.requests == 4 * devices * sites for pair in summary.pairs)


def test_warm_up_requests_that_fail_in_an_outage_are_on_record_and_the_session_goes_on(tmp_path):
    """The backbone is dead in its first state, which is what a warm-up meets. Only the verdict and the rows remember it."""
    trace = tmp_path / "late.csv"
    trace.write_text("time_s,rate_bps\n0,0\n2,20e6\n60,20e6\n")
    known = scenario(
        links={
            "access": {"rate": "50 Mbit/s", "delay": "2 ms"},
            "backbone": {"trace": str(trace), "delay": "10 ms"},
        },
        requests={"count": 3, "warmup": 2, "deadline": "5 s", "arrival": "fixed", "rate": "1 /s"},
        planning={"planners": ["cloud-only"]},
    )
    summary = run(known, SimBackend(), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert [row["error"] for row in found if row["warmup"] == "true"] == ["DeadlineExceeded"] * 2
    measured = [row for row in found if row["warmup"] == "false"]
    assert [row["error"] for row in measured] == [""] * 3
    assert float(measured[0]["latency_s"]) == pytest.approx(2.1, abs=0.2)  # until the backbone is there, and the way
    assert summary.verdict == "degraded"
    assert any("2 of 5 failed" in line for line in summary.failing)
