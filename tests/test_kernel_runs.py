"""Runs in the time-travel kernel: the same folder as anywhere, the latencies of `sim`, the same figures each time, clean ends."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from conformance import scenario as conformance

from testbed import registry
from testbed.backends.sim import SimBackend
from testbed.backends.vkernel import VkernelBackend
from testbed.errors import BackendError, RunError
from testbed.kernel import cache
from testbed.orchestrator import run
from testbed.scenario.schema import Scenario
from testbed.verify.backends import OWN_TRACES, compare
from topologies.layout import Layout

built = pytest.mark.skipif(cache.installed() is None, reason="the time-travel kernel is not built: testbed kernel build")


def scenario(**changes: Any) -> Scenario:
    """The conformance network and its small model, two planners; long requests, so that computing and links both count."""
    raw: dict[str, Any] = {
        "name": "small",
        "model": {"names": [conformance.MODEL]},
        "topology": {"name": "three_tier", "devices": 1, "edges": 2},
        "links": {
            "access": {"rate": "40 Mbit/s", "delay": "2 ms"},
            "lan": {"rate": "100 Mbit/s", "delay": "1 ms"},
            "backbone": {"rate": "1 Mbit/s", "delay": "10 ms"},
        },
        "requests": {"count": 3},
        "planning": {"planners": ["cloud-only", "edge-only"]},
    }
    for name, table in changes.items():
        raw[name] = {**raw.get(name, {}), **table}
    return Scenario.model_validate(raw)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "inferences.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@built
@pytest.mark.slow
def test_a_run_is_repeatable_and_agrees_with_the_simulator(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    summary = run(scenario(), VkernelBackend(), tmp_path / "first", events.append)
    run(scenario(), VkernelBackend(), tmp_path / "second")
    run(scenario(), SimBackend(), tmp_path / "sim")
    first, second, simulated = (rows(tmp_path / name) for name in ("first", "second", "sim"))
    assert summary.verdict == "trusted"
    assert len(first) == len(simulated) == 8
    for a, b, c in zip(first, second, simulated, strict=True):
        assert float(a["latency_s"]) == pytest.approx(float(b["latency_s"]), abs=0.001)
        assert float(a["latency_s"]) == pytest.approx(float(c["latency_s"]), rel=0.03)
        assert {key: a[key] for key in a if key.endswith("_bytes")} == {key: c[key] for key in c if key.endswith("_bytes")}
        assert a["correct"] == c["correct"]
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["booting", "loading"]
    assert kinds.index("run") < kinds.index("session") < kinds.index("progress") < kinds.index("run_end")
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    guest = manifest["backend"]["guest"]
    kernel = cache.installed()
    assert kernel is not None
    assert (guest["version"], guest["config_hash"]) == (kernel.version, kernel.config_hash)
    assert "time-travel=inf-cpu" in guest["boot_line"]
    assert guest["virtual_s"] > 0.0 < guest["wall_s"]
    assert manifest["backend"]["kernel"].startswith(f"Linux {kernel.version}")
    assert manifest["status"] == "finished"
    for trip in manifest["backend"]["idle_round_trips"]:
        assert trip["found_s"] == pytest.approx(trip["expected_s"], abs=20e-6)
    plans = [json.loads(line) for line in (tmp_path / "first" / "plans.jsonl").read_text().splitlines()]
    assert all(plan["planning_time_s"] > 1e-6 for plan in plans)  # a real time, not the guest's


@built
@pytest.mark.long
def test_a_network_of_32_hosts_runs(tmp_path: Path) -> None:
    asked = scenario(
        topology={"devices": 2, "edges": 29}, compute={"tensors": "sizes"}, requests={"count": 1}, planning={"planners": ["d3"]}
    )
    summary = run(asked, VkernelBackend(), tmp_path / "run")
    assert summary.verdict == "trusted"
    found = rows(tmp_path / "run")
    assert sorted(row["device"] for row in found) == ["d1", "d1", "d2", "d2"]
    assert not any(row["error"] for row in found)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["backend"]["guest"]["peak_mib"] < 1500


@built
@pytest.mark.slow
def test_an_interrupted_run_keeps_what_was_finished(tmp_path: Path) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] == 3:
            assert len(rows(tmp_path / "run")) >= 3  # what is finished is here already
            raise KeyboardInterrupt

    asked = scenario(requests={"count": 500, "think_time": "1 s"})
    with pytest.raises(KeyboardInterrupt):
        run(asked, VkernelBackend(), tmp_path / "run", interrupt)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    assert manifest["verdict"] == "rejected"
    assert 3 <= len(rows(tmp_path / "run")) < 500


@built
@pytest.mark.slow
def test_the_limit_on_the_wall_clock_ends_a_run(tmp_path: Path) -> None:
    asked = scenario(requests={"count": 100_000, "think_time": "1 s"}, run={"wall_limit": "20 s"}, compute={"tensors": "sizes"})
    with VkernelBackend().shared() as boot:
        run(scenario(requests={"count": 1}, compute={"tensors": "sizes"}), boot, tmp_path / "before")  # so that it has booted
        with pytest.raises(RunError, match=r"limit of 20 s of wall-clock time; virtual time \d"):
            run(asked, boot, tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] != "finished"
    assert "limit of 20 s" in manifest["reason"]


@built
@pytest.mark.slow
def test_the_simulator_is_within_the_limits_of_the_kernel_also_where_tiles_fan_out(tmp_path: Path) -> None:
    asked = scenario(
        model={"names": ["alexnet"]},
        topology={"edges": 4},
        links={"backbone": {"rate": "20 Mbit/s", "delay": "10 ms"}},
        hosts={"device": {"profile": "raspberry-pi-4"}, "edge": {"profile": "jetson-tx2"}},
        compute={"tensors": "sizes"},
        requests={"count": 4},
        planning={"planners": ["cloud-only", "d3"]},
    )
    (found,) = compare({OWN_TRACES: asked}, ("sim", "vkernel"), tmp_path)
    assert list(found.beyond()) == []
    assert found.verdicts == ("trusted", "trusted")


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name, path=None: None if name == "mnexec" else name)
    support = VkernelBackend().support(scenario(compute={"mode": "measured"}))
    assert not support.ok
    text = "\n".join(support.reasons)
    for words in ("testbed kernel build", "another backend", "modelled", "sudo apt-get install mininet"):
        assert words in text
    with pytest.raises(BackendError, match="testbed kernel build"):
        run(scenario(), VkernelBackend(), tmp_path / "run")


def test_a_coroutine_of_this_process_is_refused_in_words() -> None:
    async def main(_session: Any) -> Layout:
        raise AssertionError

    with pytest.raises(BackendError, match="another kernel's clock"):
        VkernelBackend().run(scenario(), main)


@built
def test_auto_chooses_it_where_the_kernel_is_built() -> None:
    assert registry.choose_backend(scenario())[0].name == "vkernel"
    still = {name: {"rate": "10 Mbit/s", "delay": "0 s"} for name in ("access", "lan", "backbone")}
    assert registry.choose_backend(scenario(compute={"mode": "measured"}, links=still))[0].name == "mininet"
