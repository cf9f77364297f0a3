"""MoDNN, AOFL, DeepThings and CoEdge in whole runs of the simulator: as long as predicted, exact answers, stealing that pays."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from orchestration import SMALL, scenario
from test_planners_tilers import TILERS

from testbed.backends.sim import SimBackend
from testbed.orchestrator import run


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "inferences.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["warmup"] == "false"]


def predictions(folder: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (folder / "plans.jsonl").read_text().splitlines()]
    return {line["planner"]: line["predicted_latency_s"] for line in lines}


def edge_scenario(model: str, planners: tuple[str, ...] = TILERS, **tables: Any) -> Any:
    hosts = {"edge": {"profile": "raspberry-pi-4"}, "e2": {"speed": 0.5}, "e3": {"speed": 1.5}}
    base = {
        "model": {"names": [model]},
        "topology": {"edges": 4},
        "hosts": hosts,
        "requests": {"count": 2, "warmup": 1},
        "planning": {"planners": list(planners), "replan": "never"},
    }
    return scenario(**{**base, **tables})


@pytest.mark.parametrize(("model", "exchange"), [("alexnet", "maps"), ("resnet18", "borders")])
def test_a_run_takes_as_long_as_was_predicted(model: str, exchange: str, tmp_path: Path) -> None:
    options = {"modnn_exchange": exchange, "aofl_exchange": exchange}
    planning = {"planners": list(TILERS), "replan": "never", "options": options}
    summary = run(edge_scenario(model, planning=planning), SimBackend(), tmp_path / "run")
    assert summary.verdict == "trusted", summary.failing
    told = predictions(tmp_path / "run")
    for row in rows(tmp_path / "run"):
        assert float(row["latency_s"]) == pytest.approx(told[row["planner"]], rel=0.06), row["planner"]


def test_a_run_takes_as_long_as_was_predicted_where_messages_share_a_slow_link(tmp_path: Path) -> None:
    """Six hosts on 40 Mbit/s: the leader sends to all of them at once, and nobody gets his message before the others."""
    hosts = {"edge": {"profile": "raspberry-pi-4-tuned"}, "e3": {"speed": 0.5}, "e5": {"speed": 2.0}}
    links = {
        "access": {"rate": "84.95 Mbit/s"},
        "lan": {"rate": "40 Mbit/s", "delay": "2 ms"},
        "backbone": {"rate": "30 Mbit/s", "delay": "10 ms"},
    }
    planners = ["modnn", "aofl", "coedge", "deepthings"]
    planning = {"planners": planners, "replan": "never", "knowledge": "true", "options": {"aofl_exchange": "borders"}}
    known = edge_scenario(
        "alexnet", topology={"edges": 6}, hosts=hosts, links=links, planning=planning, requests={"count": 1, "warmup": 2}
    )
    run(known, SimBackend(), tmp_path / "run")
    told = predictions(tmp_path / "run")
    for row in rows(tmp_path / "run"):
        assert float(row["latency_s"]) == pytest.approx(told[row["planner"]], rel=0.05), row["planner"]


@pytest.mark.parametrize("rate", ["10 Mbit/s", "30 Mbit/s", "100 Mbit/s", "1 Gbit/s"])
def test_maps_that_go_through_the_leader_take_as_long_as_predicted_on_any_lan(rate: str, tmp_path: Path) -> None:
    """Four unequal hosts: what the leader sends out shares his link, which made predictions a sixth too short."""
    links = {
        "access": {"rate": "84.95 Mbit/s"},
        "lan": {"rate": rate, "delay": "0.2 ms"},
        "backbone": {"rate": "30 Mbit/s", "delay": "10 ms"},
    }
    options = {"modnn_exchange": "maps", "aofl_exchange": "maps"}
    planning = {"planners": list(TILERS), "replan": "never", "knowledge": "true", "options": options}
    known = edge_scenario("alexnet", links=links, planning=planning, requests={"count": 1, "warmup": 2})
    run(known, SimBackend(), tmp_path / "run")
    told = predictions(tmp_path / "run")
    for row in rows(tmp_path / "run"):
        assert float(row["latency_s"]) == pytest.approx(told[row["planner"]], rel=0.01), row["planner"]


@pytest.mark.parametrize(
    "options",
    [{}, {"modnn_exchange": "maps", "aofl_exchange": "borders", "reuse": "off"}, {"stealing": "off", "edge_part": "hpa"}],
)
def test_real_tensors_give_the_whole_models_answer(options: dict[str, str], tmp_path: Path) -> None:
    """A network with a residual block and a strided shortcut."""
    planning = {"planners": list(TILERS), "replan": "never", "options": options}
    summary = run(edge_scenario(SMALL, compute={"tensors": "real"}, planning=planning), SimBackend(), tmp_path / "run")
    assert {row["correct"] for row in rows(tmp_path / "run")} == {"true"}
    assert summary.verdict == "trusted", summary.failing


@pytest.mark.slow
def test_resnet_gives_the_whole_models_answer(tmp_path: Path) -> None:
    known = edge_scenario("resnet18", compute={"tensors": "real"}, requests={"count": 1, "warmup": 0})
    run(known, SimBackend(), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert {row["planner"] for row in found} == set(TILERS)
    assert {row["correct"] for row in found} == {"true"}
    assert max(float(row["max_rel_error"]) for row in found) < 1e-5


def test_two_devices_and_slowing_hosts_give_the_same_bytes_every_time(tmp_path: Path) -> None:
    (tmp_path / "share.csv").write_text("time_s,cpu_share\n0,1\n1,0.2\n3,1\n")
    hosts = {"edge": {"profile": "raspberry-pi-4"}, "e2": {"trace": str(tmp_path / "share.csv")}}
    known = edge_scenario(
        "alexnet",
        topology={"devices": 2, "edges": 4},
        hosts=hosts,
        requests={"count": 2, "warmup": 0, "arrival": "poisson", "rate": "2 /s"},
        planning={"planners": list(TILERS)},
    )
    for name in ("a", "b"):
        assert run(known, SimBackend(), tmp_path / name).verdict == "trusted"
    for name in ("inferences.csv", "links.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_stealing_pays_where_a_host_is_slowed_by_its_trace(tmp_path: Path) -> None:
    """Planned for equal hosts, one of which has a tenth of its CPU: with stealing its tiles go elsewhere."""
    (tmp_path / "share.csv").write_text("time_s,cpu_share\n0,0.1\n")
    hosts = {"edge": {"profile": "raspberry-pi-4"}, "e2": {"trace": str(tmp_path / "share.csv")}}
    took, slow = {}, {}
    for stealing in ("on", "off"):
        options = {"stealing": stealing, "deepthings_rows": 5, "deepthings_columns": 5}
        planning = {"planners": ["deepthings"], "replan": "never", "options": options}
        known = edge_scenario("alexnet", ("deepthings",), topology={"edges": 3}, hosts=hosts, planning=planning)
        run(known, SimBackend(), tmp_path / stealing)
        took[stealing] = sum(float(row["latency_s"]) for row in rows(tmp_path / stealing))
        counts = [dict(pair.split(":") for pair in row["tiles"].split()) for row in rows(tmp_path / stealing)]
        assert all(sum(map(int, count.values())) == 25 for count in counts)
        slow[stealing] = max(int(count.get("e2", 0)) for count in counts)
    assert took["on"] < 0.7 * took["off"]
    assert slow["on"] <= 3 < 8 <= slow["off"]
