"""The mininet backend beside the conformance suite: refusals, captures, slowed time, deaths, real tiles on four edge hosts."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conformance.scenario import MODEL, installed
from processes import descendants, gone, until

from d3node.channel import Message
from d3node.graph import INPUT
from d3node.model import ModelSpec, load_graph
from d3node.plan import Plan, Stack, Tile
from testbed import registry
from testbed.backends import isolation, mininet_support
from testbed.backends.base import Session
from testbed.backends.mininet import MininetBackend
from testbed.backends.netspec import EmulationSpec, burst_bytes, queue_bytes
from testbed.errors import BackendError
from testbed.orchestrator.control import Fleet
from testbed.scenario.schema import Scenario

ROOT = Path(__file__).resolve().parent.parent


def scenario(**tables: Any) -> Scenario:
    raw: dict[str, Any] = {
        "name": "four-edges",
        "model": {"names": [MODEL]},
        "topology": {"name": "three_tier", "devices": 1, "edges": 4},
        "links": {"backbone": {"rate": "20 Mbit/s"}, "access": {"rate": "40 Mbit/s"}},
    }
    return Scenario.model_validate({**raw, **tables})


# -- refusals and arithmetic: no network is made -----------------------------------------------------------------------------


def test_delay_without_netem_is_refused_with_the_overrides_that_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mininet_support, "kernel", lambda: {"netem": False, "error": None})
    asked = scenario(links={"backbone": {"rate": "20 Mbit/s", "delay": "10 ms", "loss": "1 %"}})
    (reason,) = MininetBackend().support(asked).reasons
    for words in (
        "backbone",
        "--set links.backbone.delay='0 s'",
        "--set links.backbone.loss=0",
        "--backend sim",
        "sch_netem",
        "vagrant",
    ):
        assert words in reason
    with pytest.raises(BackendError, match="sch_netem"):
        MininetBackend().run(asked, lambda _: asyncio.sleep(0))
    monkeypatch.setattr(mininet_support, "kernel", lambda: {"netem": True, "error": None})
    assert MininetBackend().support(asked).ok


@pytest.mark.parametrize("netem", [False, True])
def test_a_loss_burst_needs_netem_though_no_link_has_loss(monkeypatch: pytest.MonkeyPatch, netem: bool) -> None:
    monkeypatch.setattr(mininet_support, "kernel", lambda: {"netem": netem, "error": None})
    faults = [{"kind": "loss", "at": "1 s", "link": "backbone", "loss": "30 %"}, {"kind": "kill", "at": "2 s", "host": "e1"}]
    found = MininetBackend().support(scenario(fault=faults))
    assert found.ok is netem
    assert [("backbone" in reason, "sch_netem" in reason) for reason in found.reasons] == ([] if netem else [(True, True)])
    assert MininetBackend().support(scenario(fault=faults[1:])).ok


def test_measured_computing_cannot_be_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mininet_support, "kernel", lambda: {"netem": True, "error": None})
    faults = [{"kind": "slow", "at": "1 s", "host": "e1", "factor": 2}]
    assert MininetBackend().support(scenario(fault=faults)).ok
    (reason,) = MininetBackend().support(scenario(fault=faults, compute={"mode": "measured"})).reasons
    assert "e1" in reason
    assert 'compute.mode = "modelled"' in reason


def test_every_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mininet_support, "kernel", lambda: {"netem": False, "error": None})
    monkeypatch.setattr(mininet_support.shutil, "which", lambda *_, **__: None)
    reasons = "; ".join(MininetBackend().support(scenario()).reasons)
    for words in ("mnexec is missing: sudo apt-get install mininet", "apt-get install iproute2", "apt-get install bash"):
        assert words in reasons


def test_where_namespaces_are_forbidden_the_reason_and_the_ways_out_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise BackendError(isolation._refusal(PermissionError(1, "Operation not permitted")))

    mininet_support.kernel.cache_clear()
    monkeypatch.setattr(isolation, "start", refuse)
    try:
        (reason,) = MininetBackend().support(scenario()).reasons
    finally:
        mininet_support.kernel.cache_clear()
    for words in ("Operation not permitted", "sudo", "vagrant up", "--backend sim", "apparmor_restrict_unprivileged_userns"):
        assert words in reason


def test_a_machine_too_slow_for_a_trial_network_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mininet_support, "TRIAL_LIMIT_S", 0)
    found = mininet_support.kernel.__wrapped__()
    assert "too busy, or too slow" in str(found["error"])


def test_sizes_instead_of_tensors_can_travel_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mininet_support, "kernel", lambda: {"netem": True, "error": None})
    asked = scenario(compute={"tensors": "sizes"})
    assert MininetBackend().support(asked).ok
    agents = MininetBackend().spec(asked, registry.layout(asked.topology), b"secret").agents
    assert agents is not None
    assert agents.tensors == "sizes"


def test_time_scale_divides_rates_and_multiplies_delays_but_leaves_queues() -> None:
    asked = scenario(links={"backbone": {"rate": "20 Mbit/s", "delay": "10 ms"}}, run={"time_scale": 4.0})
    spec = MininetBackend().spec(asked, registry.layout(asked.topology), b"secret").network
    assert spec.states["backbone", "up"].rate_bps == 5e6
    assert spec.states["backbone", "up"].delay_s == pytest.approx(0.04)
    assert spec.queues["backbone", "up"] == queue_bytes(20e6, 0.01)


def test_a_specification_survives_its_trip_into_the_namespaces() -> None:
    asked = scenario()
    spec = MininetBackend("captured").spec(asked, registry.layout(asked.topology), b"secret")
    assert EmulationSpec.from_dict(spec.to_dict()) == spec
    assert list(spec.captures) == ["backbone"]


def test_bursts_are_a_tenth_of_a_millisecond_and_longer_only_at_high_rates() -> None:
    assert [burst_bytes(rate) for rate in (1e6, 10e6, 100e6, 500e6)] == [12, 125, 1250, 31250]


# -- on the network ----------------------------------------------------------------------------------------------------------


def tiled(epoch: int) -> tuple[Plan, Any]:
    """All spatial vertices in 2 x 2 tiles on four edge hosts, the rest in the cloud."""
    graph = load_graph(ModelSpec(MODEL))
    stack = tuple(v.index for v in graph if v.spatial is not None and v.index != INPUT)
    rows, columns = graph[stack[-1]].rows // 2, graph[stack[-1]].columns // 2
    ranges = [
        ((a, b), (c, d))
        for a, b in ((0, rows), (rows, graph[stack[-1]].rows))
        for c, d in ((0, columns), (columns, graph[stack[-1]].columns))
    ]
    tiles = tuple(Tile(f"e{k}", *box) for k, box in enumerate(ranges, 1))
    tiers = tuple("device" if v == INPUT else "edge" if v <= stack[-1] else "cloud" for v in range(len(graph)))
    hosts: Any = {"device": "d1", "edge": "e1", "cloud": "c1"}
    return Plan("by-hand", graph.name, tiers, hosts, (Stack(stack, (2, 2), tiles),), epoch), graph  # type: ignore[arg-type]


@pytest.mark.emulation
@pytest.mark.slow
def test_real_tiles_on_four_edge_hosts_give_the_whole_models_answer_and_captures_agree(tmp_path: Path) -> None:
    import torch

    async def main(session: Session) -> Any:
        fleet = Fleet(session)
        pushed: list[Message] = []
        fleet.on_push = lambda _, message: pushed.append(message)
        asked = scenario(run={"time_scale": 2.0})
        await fleet.open(asked)
        plan, graph = tiled(1)
        hosts = ("c1", "e4", "e3", "e2", "e1", "d1")
        await fleet.call_all(hosts, "install", {host: installed(graph, plan, 0.02) for host in hosts})
        whole = await fleet.clients["c1"].call("whole", {"model": MODEL, "input": 7})
        before = await session.counters()
        for request in (1, 2, 3):
            fields = {"request": request, "epoch": 1, "input": 7, "deadline_s": 120.0}
            await fleet.clients["d1"].send("submit", fields)
        async with asyncio.timeout(120):
            while sum(message.kind in ("done", "failed") for message in pushed) < 3:
                await asyncio.sleep(0.05)
        after = await session.counters()
        answers = [bytes(m.payloads[0].data or b"") for m in pushed if m.kind == "done"]
        latencies = [m.fields["done_at"] - m.fields["submitted_at"] for m in pushed if m.kind == "done"]
        gained = {key: after[key].wire_bytes - before[key].wire_bytes for key in after}
        found = await session.invariants()
        await fleet.close()
        return answers, bytes(whole.payloads[0].data or b""), latencies, gained, found

    backend = MininetBackend(capture_dir=tmp_path / "capture")
    answers, whole, latencies, gained, found = backend.run(scenario(run={"time_scale": 2.0}), main)
    assert len(answers) == 3
    for answer in answers:
        torch.testing.assert_close(
            *(torch.frombuffer(bytearray(x), dtype=torch.float32) for x in (answer, whole)), rtol=1e-5, atol=1e-5
        )
    assert min(latencies) >= 0.04  # a tile and a step of 20 ms of scenario time
    assert all(gained[f"lan-e{k}", "down"] > 0 and gained[f"lan-e{k}", "up"] > 0 for k in (1, 2, 3, 4))
    by_name = {invariant.name: invariant for invariant in found}
    assert by_name["capture_backbone"].level == "ok", by_name["capture_backbone"]
    assert by_name["agents_memory_bytes"].value
    assert [invariant.name for invariant in found if invariant.level == "rejected"] == []
    assert (tmp_path / "capture" / "backbone.pcap").stat().st_size > 24


@pytest.mark.emulation
@pytest.mark.slow
def test_a_killed_orchestrator_leaves_nothing_behind() -> None:
    script = (
        "import asyncio\n"
        "from test_mininet_backend import *\n"
        "async def main(session):\n"
        "    print('running', flush=True)\n"
        "    await asyncio.sleep(1000)\n"
        "MininetBackend().run(scenario(), main)\n"
    )
    from test_isolation import Namespaces, started, traces

    before = traces()
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    with started([sys.executable, "-c", script], env=variables) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        family = descendants(process.pid)
        assert len(family) > 12  # supervisor, init, helper, zygote, six agents, Mininet's shells
        namespaces = Namespaces(family)
        assert len(namespaces) == 7  # of the inside, and of six hosts
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    until(lambda: all(gone(pid) for pid in family))
    until(namespaces.empty)
    namespaces.close()
    assert traces() == before


SLOW_BACKBONE = f"""
[model]
names = ["{MODEL}"]
[topology]
name = "three_tier"
edges = 1
[links.backbone]
rate = "200 kbit/s"
[requests]
count = 1000
[planning]
planners = ["cloud-only"]
"""


@pytest.mark.emulation
@pytest.mark.slow
def test_ctrl_c_with_a_request_in_flight_keeps_the_finished_rows_and_leaves_nothing(tmp_path: Path) -> None:
    """An input takes half a second over the backbone, and the next follows at once: there always is one in flight."""
    from test_isolation import Namespaces, started, traces

    before = traces()
    scenario_file, folder = tmp_path / "slow.toml", tmp_path / "run"
    scenario_file.write_text(SLOW_BACKBONE)
    command = [sys.executable, "-m", "testbed.cli", "run", str(scenario_file), "--backend", "mininet", "--out", str(folder)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    with started(command, env=variables, stderr=subprocess.PIPE) as process:

        def rows() -> list[dict[str, str]]:
            table = folder / "inferences.csv"
            return list(csv.DictReader(table.read_text().splitlines())) if table.is_file() else []

        until(lambda: len(rows()) >= 3 or process.poll() is not None, 240)
        family = descendants(process.pid)
        namespaces = Namespaces(family)
        assert len(namespaces) == 4, process.communicate()  # of the inside, and of three hosts
        process.send_signal(signal.SIGINT)
        output, errors = (words.decode() for words in process.communicate(timeout=240))
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert "cloud-only" in output  # the table of what there is
    *finished, last = rows()
    assert len(finished) >= 3
    assert all(row["latency_s"] and row["correct"] == "true" for row in finished)
    assert (last["error"], last["latency_s"]) == ("Interrupted", "")
    assert json.loads((folder / "manifest.json").read_text())["status"] == "interrupted"
    assert json.loads((folder / "fidelity.json").read_text())["verdict"] == "rejected"
    until(lambda: all(gone(pid) for pid in family))
    until(namespaces.empty)
    namespaces.close()
    assert traces() == before


@pytest.mark.emulation
@pytest.mark.slow
def test_the_death_of_the_inside_ends_a_run_with_its_name() -> None:
    async def main(session: Any) -> None:
        os.kill(int(session._root.parent.name), signal.SIGKILL)
        await asyncio.sleep(60)

    start = time.monotonic()
    with pytest.raises(BackendError, match="emulated network is gone"):
        MininetBackend().run(scenario(), main)
    assert time.monotonic() - start < 59  # it did not wait for `main`
