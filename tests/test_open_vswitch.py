"""Open vSwitch in the emulated network: explicit flows alone, equal answers and bytes, its datapath named, nothing outside."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conformance.scenario import MODEL
from processes import until
from test_emulated_network import measured

from testbed.backends import mininet_support
from testbed.backends.base import LinkCounters
from testbed.backends.invariants import forwarded, switch_busy
from testbed.backends.mininet import MininetBackend
from testbed.backends.sim import SimBackend
from testbed.backends.vkernel import VkernelBackend
from testbed.errors import BackendError
from testbed.orchestrator import run
from testbed.scenario.schema import Scenario
from topologies import three_tier
from topologies.mininet_topo import Sizes

installed = pytest.mark.skipif(
    bool(mininet_support.lacking_open_vswitch()), reason="Open vSwitch is missing: scripts/setup.sh open-vswitch"
)


def scenario(**tables: Any) -> Scenario:
    raw: dict[str, Any] = {
        "name": "switches",
        "model": {"names": [MODEL]},
        "topology": {"name": "three_tier", "devices": 1, "edges": 2},
        "links": {"backbone": {"rate": "20 Mbit/s"}, "access": {"rate": "40 Mbit/s"}, "lan": {"rate": "40 Mbit/s"}},
        "network": {"switch": "open-vswitch"},
    }
    return Scenario.model_validate({**raw, **tables})


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with all programs, Mininet and Open vSwitch in user space."""
    monkeypatch.setattr(mininet_support, "kernel", lambda: {"netem": True, "error": None})
    monkeypatch.setattr(mininet_support, "open_vswitch_datapath", lambda: "userspace")
    monkeypatch.setattr(mininet_support.shutil, "which", lambda name, **_: f"/usr/bin/{name}")
    monkeypatch.setattr(mininet_support, "TUN", Path("/dev/null"))
    return monkeypatch


# -- refusals: no network is made --------------------------------------------------------------------------------------------


def test_a_machine_without_it_is_told_the_package(capable: pytest.MonkeyPatch) -> None:
    assert MininetBackend().support(scenario()).ok
    capable.setattr(mininet_support.shutil, "which", lambda name, **_: None if name.startswith("ovs") else f"/usr/bin/{name}")
    (reason,) = MininetBackend().support(scenario()).reasons
    for words in ("ovs-vswitchd", "sudo apt-get install openvswitch-switch", "leave network.switch out"):
        assert words in reason
    assert MininetBackend().support(scenario(network={})).ok


def test_in_user_space_it_needs_taps_and_single_frames(capable: pytest.MonkeyPatch) -> None:
    (reason,) = MininetBackend().support(scenario(network={"switch": "open-vswitch", "offload": True})).reasons
    assert "sudo modprobe openvswitch" in reason
    capable.setattr(mininet_support, "TUN", Path("/dev/no-such-device"))
    (reason,) = MininetBackend().support(scenario()).reasons
    assert "sudo modprobe tun" in reason
    capable.setattr(mininet_support, "open_vswitch_datapath", lambda: "kernel")
    assert MininetBackend().support(scenario(network={"switch": "open-vswitch", "offload": True})).ok


def test_backends_without_switches_of_their_own_refuse_it() -> None:
    for backend in (SimBackend(), VkernelBackend()):
        reasons = "; ".join(backend.support(scenario()).reasons)
        assert 'network.switch = "open-vswitch" exists in backend mininet only: use --backend mininet' in reasons


def test_frames_that_a_switch_loses_or_makes_count_against_the_run() -> None:
    layout = three_tier.layout(Sizes(1, 1))
    even = {(link.name, way): LinkCounters(1514_000, 1000, 0) for link in layout.links for way in ("up", "down")}
    level = [forwarded({**even, ("backbone", "up"): LinkCounters(0, 1000 - n, 0)}, layout, "x").level for n in (0, 10, 500)]  # type: ignore[dict-item]
    assert level == ["ok", "degraded", "rejected"]
    dropped = {**even, ("backbone", "up"): LinkCounters(0, 500, 500)}  # dropped by the link's queue, not by the switch before it
    assert "reached s1" in forwarded(dropped, layout, "x").detail or "reached s2" in forwarded(dropped, layout, "x").detail


def test_a_switch_that_has_no_time_left_counts_against_the_run() -> None:
    assert [switch_busy(share).level for share in (None, 0.6, 0.99, 1.0)] == ["ok", "ok", "degraded", "degraded"]


# -- on the network ----------------------------------------------------------------------------------------------------------


@pytest.mark.emulation
@installed
@pytest.mark.parametrize("topology", ["three_tier", "two_sites"])
def test_everyone_reaches_everyone_and_frames_cross_only_the_links_of_their_path(topology: str) -> None:
    found = measured("everyone_reaches_everyone", topology, "open-vswitch")
    assert all(found["reached"])
    assert found["frames"] == found["hops"]


@pytest.mark.emulation
@installed
def test_counters_hold_every_frame_on_its_path_and_no_other() -> None:
    found = measured("counters", "open-vswitch")
    framed = 1_000_000 + 66 * -(-1_000_000 // 1448)
    for link in ("access-d1", "backbone", "core-c1"):
        assert framed <= found["gained"][f"{link} up"] <= framed + 1000 + 1514 * found["sent_twice"]
    assert {found["gained"][f"lan-{host} {way}"] for host in ("e1", "e2") for way in ("up", "down")} == {0}
    assert not any(found["offload"])


@pytest.mark.emulation
@installed
def test_frames_wait_for_a_switch_in_user_space_that_gets_no_cpu() -> None:
    found = measured("switch_that_stands_still")
    if mininet_support.open_vswitch_datapath() == "kernel":
        assert found == {"datapath": "kernel"}
        return
    arrived, passed_on = found["held"]
    assert arrived >= 1000
    assert passed_on == 0
    assert found["left"] == arrived, f"{found['room']} bytes of room on each port"


@pytest.mark.emulation
@installed
@pytest.mark.slow
def test_a_run_has_the_answers_and_bytes_of_linux_bridges_and_says_what_forwarded(tmp_path: Path) -> None:
    kept = ("request", "status", "correct", "backbone_bytes", "error")
    rows, facts = {}, {}
    for switch in ("linux-bridge", "open-vswitch"):
        asked = scenario(
            network={"switch": switch},
            run={"time_scale": 4.0},
            requests={"count": 3},
            planning={"planners": ["d3"], "replan": "never"},
        )
        run(asked, MininetBackend(), tmp_path / switch)
        with open(tmp_path / switch / "inferences.csv", newline="", encoding="utf-8") as file:
            rows[switch] = [{key: row[key] for key in kept if key in row} for row in csv.DictReader(file)]
        manifest = json.loads((tmp_path / switch / "manifest.json").read_text())
        facts[switch] = manifest["backend"]
    assert rows["open-vswitch"] == rows["linux-bridge"]
    assert [row["error"] for row in rows["open-vswitch"]] == [""] * len(rows["open-vswitch"])
    assert "datapath" not in facts["linux-bridge"]
    assert facts["linux-bridge"]["switch"] == "LinuxBridge"
    assert facts["open-vswitch"]["switch"] == "Open vSwitch"
    assert facts["open-vswitch"]["datapath"] == mininet_support.open_vswitch_datapath()
    judged = json.loads((tmp_path / "open-vswitch" / "fidelity.json").read_text())
    (frames,) = [entry for entry in _entries(judged) if entry.get("name") == "switch_frames"]
    assert f"Open vSwitch, {facts['open-vswitch']['datapath']} datapath" in frames["detail"]
    busy = [entry for entry in _entries(judged) if entry.get("name") == "switch_busy"]
    assert len(busy) == (facts["open-vswitch"]["datapath"] == "userspace")
    assert not any(entry.get("name") == "switch_frames" for entry in _entries(_read(tmp_path / "linux-bridge")))


@pytest.mark.emulation
@installed
def test_nothing_of_it_is_outside_the_namespaces() -> None:
    before = _outside()

    async def main(_session: Any) -> set[str]:
        return _outside() - before

    during = MininetBackend().run(scenario(), main)
    assert {name.split(":")[0] for name in during} <= {"process"}  # ours, and in namespaces
    until(lambda: _outside() <= before)  # the kernel ends them with their namespaces


@pytest.mark.emulation
@installed
def test_a_switch_that_does_not_start_is_told_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "ovs-vswitchd"
    broken.write_text("#!/bin/sh\necho the switch is out of order >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(BackendError, match="out of order"):
        MininetBackend().run(scenario(), lambda _: _never())


async def _never() -> None:
    raise AssertionError("the network has no switches")


def _outside() -> set[str]:
    """What Open vSwitch leaves on a machine: interfaces, sockets and databases, processes."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    found = {f"link:{line.split(':')[1].strip()}" for line in links.splitlines()}
    for folder in (
        "/run/openvswitch",
        "/var/run/openvswitch",
        "/etc/openvswitch",
        "/var/log/openvswitch",
        "/dev/shm",
        "/run/netns",
    ):
        if Path(folder).is_dir():
            found |= {f"file:{folder}/{name}" for name in os.listdir(folder)}
    for entry in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = entry.read_text().strip()
        except OSError:
            continue
        if name.startswith("ovs"):
            found.add(f"process:{entry.parent.name}")
    return found


def _read(folder: Path) -> Any:
    return json.loads((folder / "fidelity.json").read_text())


def _entries(value: Any) -> list[dict[str, Any]]:
    """Every object in a document, however deep."""
    if isinstance(value, list):
        return [entry for item in value for entry in _entries(item)]
    if isinstance(value, dict):
        return [value, *(entry for item in value.values() for entry in _entries(item))]
    return []
