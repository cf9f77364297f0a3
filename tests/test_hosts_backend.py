"""Real machines, played by agents that are processes on 127.0.2.x with clocks of their own, over real TCP and TLS."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machines import SMALL, Machines, machines

from d3node.facts import installed
from d3node.protocol import VERSION
from testbed import registry
from testbed.backends.hosts import HostsBackend
from testbed.cli import main
from testbed.errors import BackendError, TestbedError
from testbed.hosts import certificates
from testbed.orchestrator import run
from testbed.scenario.schema import Scenario

OFFSETS = {"d1": 0.0, "e1": 1234.5, "e2": -77.25, "c1": 1e6}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with machines(tmp_path_factory.mktemp("lab") / "made", 2, offsets=OFFSETS) as started:
        yield started


def scenario(**more: Any) -> Scenario:
    given: dict[str, Any] = {
        "name": "machines",
        "model": {"names": [SMALL]},
        "topology": {"edges": 2},
        "links": {"backbone": {"rate": "50 Mbit/s"}},
        "compute": {"mode": "measured"},
        "requests": {"count": 6, "deadline": "60 s"},
        "planning": {"planners": ["d3", "cloud-only"], "probe_interval": "0.2 s", "interval": "0.1 s"},
    }
    return Scenario.model_validate(given | more)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "inferences.csv").open() as file:
        return list(csv.DictReader(file))


def written(folder: Path, **more: Any) -> Path:
    """A scenario as a file, for the command line."""
    path = folder / "machines.toml"
    text = f'name = "machines"\n[model]\nnames = ["{SMALL}"]\n[topology]\nedges = 2\n[links.backbone]\nrate = "50 Mbit/s"\n'
    path.write_text(text + '[compute]\nmode = "measured"\n[requests]\ncount = 2\n[planning]\nplanners = ["hpa"]\n')
    return path


def refusal(backend: HostsBackend, wanted: Scenario, folder: Path) -> str:
    """What a run is refused with, before anything is measured."""
    with pytest.raises(BackendError) as caught:
        run(wanted, backend, folder)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_scenario_runs_with_measured_compute_and_the_whole_models_answers(lab: Machines, tmp_path: Path) -> None:
    summary = run(scenario(), HostsBackend(lab.inventory), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert len(found) == 2 * 7
    assert [row["error"] for row in found] == [""] * len(found)
    assert {row["correct"] for row in found} == {"true"}
    assert {row["max_rel_error"] for row in found if row["planner"] == "cloud-only"} == {"0.000e+00"}
    assert all(float(row["latency_s"]) > 0.0 for row in found)
    assert all(float(row["compute_cloud_s"]) > 0.0 for row in found if row["planner"] == "cloud-only")
    assert summary.verdict in ("trusted", "degraded")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["backend"]["name"] == "hosts"
    assert manifest["backend"]["tls"] is True
    assert manifest["backend"]["machines"]["c1"]["d3node"] == installed()
    words = (lab.folder / "secret").read_text().strip()
    assert all(words not in path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file())


def test_times_of_all_machines_are_brought_to_one_clock(lab: Machines, tmp_path: Path) -> None:
    run(scenario(), HostsBackend(lab.inventory), tmp_path / "run")
    clocks = json.loads((tmp_path / "run" / "manifest.json").read_text())["clocks"]
    for host, clock in clocks.items():  # by construction: the truth lies within half of a round trip
        for found in (clock["offset_s"], clock["offset_at_end_s"]):
            assert abs(found - OFFSETS[host]) <= clock["uncertainty_s"] + 1e-9, (host, clock)
        assert clock["measurements"] >= 2
    sure = max(clock["uncertainty_s"] for clock in clocks.values())
    for row in rows(tmp_path / "run"):
        legs = [float(row[name]) for name in row if name.startswith("transfer_")]
        assert all(0.0 <= leg <= float(row["latency_s"]) + 2 * sure for leg in legs), row
        assert -2 * sure <= float(row["submitted_s"]) - float(row["due_s"]) < 60.0
    fidelity = json.loads((tmp_path / "run" / "fidelity.json").read_text())
    uncertainty = next(one for one in fidelity["backend"] if one["name"] == "clock_uncertainty")
    assert uncertainty["value"] == pytest.approx(sure)
    assert uncertainty["level"] == ("ok" if sure <= 0.001 else "degraded")


def test_bytes_of_links_that_nobody_counts_are_left_empty(lab: Machines, tmp_path: Path) -> None:
    run(scenario(planning={"planners": ["cloud-only"]}), HostsBackend(lab.inventory), tmp_path / "run")
    with (tmp_path / "run" / "links.csv").open() as file:
        totals = {(row["link"], row["direction"]): row for row in csv.DictReader(file) if row["kind"] == "total"}
    assert {row["wire_bytes"] for row in totals.values()} == {""}
    assert int(totals["backbone", "up"]["message_bytes"]) > 6 * 3 * 64 * 64 * 4
    fidelity = json.loads((tmp_path / "run" / "fidelity.json").read_text())
    assert "not counted" in next(one["detail"] for one in fidelity["backend"] if one["name"] == "links")


def test_a_check_tells_of_every_machine_and_every_way(lab: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hosts", "check", str(lab.inventory), str(written(tmp_path)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert {(way["source"], way["target"]) for way in found["ways"]} == {(a, b) for a in OFFSETS for b in OFFSETS if a != b}
    assert all(way["rate_bps"] > 1e6 and 0.0 < way["round_trip_s"] < 5.0 for way in found["ways"])
    for host, facts in found["hosts"].items():
        assert abs(facts["clock"]["offset_s"] - OFFSETS[host]) <= facts["clock"]["uncertainty_s"] + 1e-9
        assert set(facts["models"]) == {SMALL}
    assert main(["hosts", "check", str(lab.inventory)]) == 0
    assert "ready" in capsys.readouterr().out


def test_one_orchestrator_at_a_time(lab: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holding, done = threading.Event(), threading.Event()

    async def hold(session: Any) -> None:
        import asyncio

        from testbed.orchestrator.control import Fleet

        fleet = Fleet(session)
        await fleet.open(scenario())
        holding.set()
        while not done.is_set():
            await asyncio.sleep(0.05)
        await fleet.close()

    thread = threading.Thread(target=lambda: HostsBackend(lab.inventory).run(scenario(), hold))
    thread.start()
    try:
        assert holding.wait(60.0)
        assert "busy with another run" in refusal(HostsBackend(lab.inventory), scenario(), tmp_path / "second")
        assert main(["hosts", "check", str(lab.inventory)]) == 2
        assert "busy with a run" in capsys.readouterr().err
    finally:
        done.set()
        thread.join()
    assert run(scenario(), HostsBackend(lab.inventory), tmp_path / "third").verdict in ("trusted", "degraded")


def test_an_agent_that_is_restarted_mid_run_ends_the_run_by_name_and_serves_the_next(lab: Machines, tmp_path: Path) -> None:
    wanted = scenario(requests={"count": 400, "deadline": "60 s"}, planning={"planners": ["edge-only"]})
    again: list[threading.Thread] = []

    def watch(event: dict[str, Any]) -> None:
        if event.get("request") == 5 and "latency_s" in event and not again:
            again.append(threading.Thread(target=lab.start, args=("e1",)))
            again[0].start()

    with pytest.raises(TestbedError, match="e1"):
        run(wanted, HostsBackend(lab.inventory, lab), tmp_path / "run", watch)
    again[0].join()
    found = rows(tmp_path / "run")
    failed = [row for row in found if row["error"]]
    assert len(failed) <= 2  # the one that was on its way
    assert all("e1" in row["error_text"] for row in failed)
    assert {row["correct"] for row in found if not row["error"]} == {"true"}
    after = run(scenario(), HostsBackend(lab.inventory), tmp_path / "after")
    assert [row["error"] for row in rows(after.folder)] == [""] * 14


def test_with_recovery_requests_go_on_when_an_agent_dies(lab: Machines, tmp_path: Path) -> None:
    wanted = scenario(
        requests={"count": 12, "arrival": "fixed", "rate": "2 /s", "deadline": "60 s"},
        planning={"planners": ["d3"]},
        fault=[{"kind": "kill", "at": "2 s", "host": "e1"}],
    )
    try:
        run(wanted, HostsBackend(lab.inventory, lab), tmp_path / "run")
    finally:
        lab.start("e1")
    found = rows(tmp_path / "run")
    assert [row["error"] for row in found] == [""] * 13
    assert {row["correct"] for row in found} == {"true"}


def test_agents_of_other_versions_are_refused_and_told_what_to_install(lab: Machines, tmp_path: Path, capsys: Any) -> None:
    older = ["--model", "alexnet", "--tier", "cloud", "--sizes"], {"MACHINES_D3NODE": "0.0.7"}
    with lab.different(e1=older, e2=([], {"MACHINES_PROTOCOL": "77"})):
        words = refusal(HostsBackend(lab.inventory), scenario(), tmp_path / "run")
        assert main(["hosts", "check", str(lab.inventory)]) == 2
    install = f"pip install d3-testbed=={installed()} there"
    assert "e2: no agent can be reached" in words
    assert "versions differ" in words
    assert f"e1: its agent is of d3-testbed 0.0.7 (protocol {VERSION}), this machine has {installed()}" in words
    assert "has tier 'cloud' instead of 'edge'" in words
    assert words.count(install) == 2
    assert capsys.readouterr().err.count(install) == 2


def test_agents_with_other_models_or_weights_are_refused(lab: Machines, tmp_path: Path, capsys: Any) -> None:
    larger = "agent_models:small?input=1x3x96x96"
    with lab.different(e2=(["--model", larger], {}), e1=(["--seed", "5"], {})):
        words = refusal(HostsBackend(lab.inventory), scenario(), tmp_path / "run")
        assert main(["hosts", "check", str(lab.inventory), str(written(tmp_path))]) == 2
    assert f"e2: has not loaded {SMALL!r} (it has: {larger})" in words
    assert "has weights of seed 5, the scenario's of seed 0" in words
    assert "other weights on some hosts than on others" in words
    assert f"e1: its {SMALL!r} has other weights than the scenario's" in capsys.readouterr().err


def test_wrong_secrets_and_certificates_are_refused_by_name(lab: Machines, tmp_path: Path) -> None:
    other = tmp_path / "other"
    certificates.init(other, {name: [lab.address(name)] for name in lab.hosts})
    text = lab.inventory.read_text()
    paths = {name: str(lab.folder / name) for name in ("secret", "ca.pem", "orchestrator.pem", "orchestrator.key")}

    def with_files(name: str, **replaced: str) -> Path:
        changed = text
        for key, path in {**paths, **replaced}.items():
            changed = changed.replace(f'"{key}"', f'"{path}"')
        (tmp_path / name).write_text(changed)
        return tmp_path / name

    secret = refusal(HostsBackend(with_files("a.toml", secret=str(other / "secret"))), scenario(), tmp_path / "a")
    assert all(f"{host}: no agent can be reached" in secret for host in lab.hosts)
    assert "does not know this run's secret" in secret
    ours = {"orchestrator.pem": str(other / "orchestrator.pem"), "orchestrator.key": str(other / "orchestrator.key")}
    stranger = refusal(HostsBackend(with_files("b.toml", **ours)), scenario(), tmp_path / "b")
    assert all(f"{host}: no agent can be reached" in stranger for host in lab.hosts)
    agents = {"orchestrator.pem": str(lab.folder / "e1.pem"), "orchestrator.key": str(lab.folder / "e1.key")}
    taken_over = refusal(HostsBackend(with_files("e.toml", **agents)), scenario(), tmp_path / "e")
    assert all(f"{host}: no agent can be reached" in taken_over for host in lab.hosts)
    assert "the certificate of 127.0." in taken_over
    assert "does not say spiffe://d3-testbed/orchestrator" in taken_over
    theirs = refusal(HostsBackend(with_files("c.toml", **{"ca.pem": str(other / "ca.pem")})), scenario(), tmp_path / "c")
    assert "certificate" in theirs
    run(scenario(planning={"planners": ["hpa"]}), HostsBackend(with_files("d.toml")), tmp_path / "d")


def test_what_real_machines_cannot_do_is_refused_in_words(lab: Machines) -> None:
    backend = HostsBackend(lab.inventory)

    def why(**more: Any) -> str:
        return " ".join(backend.support(scenario(**more)).reasons)

    assert why() == ""
    assert "nobody replays a trace" in why(links={"backbone": {"trace": "lte-like"}})
    assert "cannot be slowed down" in why(run={"time_scale": 2.0})
    assert "true state of a real network" in why(planning={"knowledge": "true"})
    assert "no [[host]] for 'e3'" in why(topology={"edges": 3})
    assert "operators have" in why(fault=[{"kind": "kill", "at": "1 s", "host": "e2"}])
    assert "need links that can be changed" in why(fault=[{"kind": "down", "at": "1 s", "link": "backbone"}])
    assert "d3node serve takes no part" in why(fault=[{"kind": "corrupt", "at": "1 s", "host": "e1", "peer": "c1"}])
    assert "exists in backend mininet only" in why(network={"switch": "open-vswitch"})
    assert "limits hosts in backend mininet only" in why(hosts={"edge": {"cpus": 0.5}})
    assert "measured" in why(fault=[{"kind": "slow", "at": "1 s", "host": "e2", "factor": 2}])
    assert HostsBackend(lab.inventory, lab).support(scenario(fault=[{"kind": "kill", "at": "1 s", "host": "e2"}])).ok


def test_the_command_line_takes_an_inventory_and_asks_for_one(
    lab: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(written(tmp_path))
    assert "hosts" in registry.backends()
    assert registry.choose_backend(scenario())[0].name != "hosts"
    assert main(["run", file, "--backend", "hosts", "--out", str(tmp_path / "none")]) == 2
    assert "--inventory FILE" in capsys.readouterr().err
    assert main(["run", file, "--inventory", str(lab.inventory), "--out", str(tmp_path / "auto")]) == 2
    assert "is for --backend hosts" in capsys.readouterr().err
    given = ["--backend", "hosts", "--inventory", str(lab.inventory), "--out", str(tmp_path / "run")]
    assert main(["run", file, *given]) == 0
    assert main(["run", str(tmp_path / "run"), "--out", str(tmp_path / "again")]) == 0  # a run folder knows its inventory
    assert [row["error"] for row in rows(tmp_path / "again")] == [""] * 3
