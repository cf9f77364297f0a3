"""CPU limits of hosts: control groups of both versions are made, read back, counted and removed, also after a kill."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conformance.scenario import MODEL
from processes import descendants, gone, until

from testbed.backends import cgroups, mininet_support
from testbed.backends.cgroups import CpuLimits, Hierarchy, Throttling, quota_us
from testbed.backends.invariants import cpu_limits
from testbed.backends.mininet import MininetBackend
from testbed.backends.sim import SimBackend
from testbed.errors import BackendError, ScenarioError
from testbed.orchestrator import run
from testbed.scenario.load import build
from testbed.scenario.schema import Scenario

ROOT = Path(__file__).resolve().parent.parent


def scenario(cpus: dict[str, float], **tables: Any) -> Scenario:
    raw: dict[str, Any] = {
        "name": "limits",
        "model": {"names": [MODEL]},
        "topology": {"name": "three_tier", "devices": 1, "edges": 2},
        "links": {"backbone": {"rate": "20 Mbit/s"}},
        "hosts": {host: {"cpus": share} for host, share in cpus.items()},
        "compute": {"mode": "measured"},
    }
    return build({**raw, **tables})


# -- without root ------------------------------------------------------------------------------------------------------------


def test_limits_of_modelled_computing_are_bad_input() -> None:
    with pytest.raises(ScenarioError, match=r'hosts.edge.cpus limits real computing: set compute.mode = "measured"'):
        scenario({"edge": 0.5}, compute={"mode": "modelled"})
    with pytest.raises(ScenarioError, match="cpus"):
        scenario({"edge": 0.0})


def test_other_backends_refuse_limits() -> None:
    assert not SimBackend().support(scenario({"edge": 0.5})).ok


def test_more_cpus_than_there_are_and_groups_that_cannot_be_made_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Hierarchy:
        raise BackendError("control groups cannot be made")

    monkeypatch.setattr(mininet_support, "kernel", lambda: {"netem": True, "error": None})
    monkeypatch.setattr(cgroups, "hierarchy", refuse)
    reasons = MininetBackend().support(scenario({"cloud": 100_000.0})).reasons
    assert any("hosts.cloud.cpus = 100000, and this machine has" in reason for reason in reasons)
    assert any("hosts.cloud.cpus: control groups cannot be made" in reason for reason in reasons)
    assert MininetBackend().support(scenario({})).ok


def test_quotas_are_of_short_periods_and_what_a_kernel_takes() -> None:
    assert quota_us(0.5) == (5_000, 10_000)
    assert quota_us(1.5) == (15_000, 10_000)
    assert quota_us(0.05) == (1_000, 20_000)
    assert quota_us(0.001) == quota_us(0.0) == (1_000, 1_000_000)


def test_the_hierarchy_is_found_where_it_is_mounted_and_refused_in_words(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    first, second = tmp_path / "a cpu", tmp_path / "unified"
    first.mkdir()
    second.mkdir()
    controllers = second / "cgroup.controllers"

    def found(*lines: str) -> Hierarchy:
        mounts.write_text("".join(f"{line}\n" for line in ("proc /proc proc rw 0 0", *lines)))
        return cgroups.hierarchy(mounts)

    version1 = f"cgroup {str(first).replace(' ', chr(92) + '040')} cgroup rw,relatime,cpu,cpuacct 0 0"
    version2 = f"cgroup2 {second} cgroup2 rw,relatime 0 0"
    assert found(version2, version1) == Hierarchy(first, 1)
    controllers.write_text("cpuset cpu io\n")
    assert found(version2) == Hierarchy(second, 2)
    controllers.write_text("memory\n")
    with pytest.raises(BackendError, match="have no CPU controller"):
        found(version2)
    with pytest.raises(BackendError, match="mount -t cgroup2"):
        found("cgroup /x cgroup rw,memory 0 0")


class Fake(CpuLimits):
    """A version 2 hierarchy of plain files: what a kernel would put into a new group is put there."""

    def _make(self, folder: Path) -> None:
        super()._make(folder)
        self.made = [*getattr(self, "made", []), folder]

    def throttle(self, host: str, periods: int, throttled: int, usec: int) -> None:
        words = f"usage_usec 9\nnr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec {usec}\n"
        (self.folder / host / "cpu.stat").write_text(words)


def test_the_cpu_controller_is_passed_on_where_systemd_has_not_yet(tmp_path: Path) -> None:
    control = tmp_path / "cgroup.subtree_control"
    for before, after in (("memory pids\n", "+cpu"), ("cpu memory\n", "cpu memory\n")):
        control.write_text(before)
        limits = Fake({"e1": 0.5}, Hierarchy(tmp_path, 2)).__enter__()
        os.close(limits.descriptor)
        assert control.read_text() == after
        shutil.rmtree(tmp_path / "d3-testbed")


def test_a_cpu_controller_that_cannot_be_passed_on_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path, text: str) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(file))

    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    monkeypatch.setattr(cgroups, "_write", refuse)
    with pytest.raises(BackendError, match=r"echo \+cpu > .*/cgroup.subtree_control: Device or resource busy"):
        CpuLimits({"e1": 0.5}, Hierarchy(tmp_path, 2)).__enter__()


def test_version_2_is_spoken_as_the_kernel_documents_it(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    limits = Fake({"e1": 0.5, "c1": 1.5}, Hierarchy(tmp_path, 2)).__enter__()
    try:
        assert (limits.folder / "e1" / "cpu.max").read_text() == "5000 10000"
        assert (limits.folder / "c1" / "cpu.max").read_text() == "15000 10000"
        assert [(folder / "cgroup.subtree_control").read_text() for folder in limits.made] == ["+cpu", "+cpu"]
        limits.share("e1", 0.5)
        assert (limits.folder / "e1" / "cpu.max").read_text() == "2500 10000"
        for host in limits.cpus:
            limits.throttle(host, 40, 10, 1_500_000)
        assert limits.throttling() == dict.fromkeys(("e1", "c1"), Throttling(40, 10, 1.5))
        assert limits.wrong() == []
        (limits.folder / "c1" / "cpu.max").write_text("max 10000")
        assert limits.wrong() == ["c1"]
    finally:
        os.close(limits.descriptor)


def test_limits_that_are_not_in_force_reject_a_run_and_too_many_cpus_degrade_it() -> None:
    did = {"e1": Throttling(40, 10, 1.5)}
    found = cpu_limits({"e1": 0.5}, did, [], 2)
    assert (found.level, found.value, found.bound) == ("ok", 0.5, 2.0)
    assert found.detail == "e1: 10 of 40 periods throttled, 1.500 s"
    assert cpu_limits({"e1": 1.5, "e2": 1.0}, did, [], 2).level == "degraded"
    assert cpu_limits({"e1": 0.5}, did, ["e1"], 2).level == "rejected"


# -- with it -----------------------------------------------------------------------------------------------------------------


def ours() -> set[str]:
    """Groups of testbeds on this machine."""
    parent = cgroups.hierarchy().folder / "d3-testbed"
    return {folder.name for folder in parent.iterdir() if folder.is_dir()} if parent.exists() else set()


def of_process(pid: int) -> set[str]:
    return {name for name in ours() if name.split("-")[2] == str(pid)}


@pytest.mark.emulation
def test_a_process_in_a_group_gets_no_more_than_its_quota() -> None:
    turns = "import time\nbegin, end = time.process_time(), time.monotonic() + 2\nwhile time.monotonic() < end: pass\n"
    burn = turns + "print(time.process_time() - begin)"
    with CpuLimits({"e1": 0.2}) as limits:
        join = f"open('/proc/{os.getpid()}/fd/{limits.descriptor}/e1/cgroup.procs', 'w').write('0')\n"
        took = float(subprocess.run([sys.executable, "-c", join + burn], capture_output=True, text=True, check=True).stdout)
        did = limits.throttling()["e1"]
        assert limits.wrong() == []
        assert of_process(os.getpid())
    assert took < 2 * 0.2 + 0.2
    assert did.throttled > 10
    assert did.throttled_s > 0  # how long is its machine's doing: a busy one lets it use its quota up late in a period
    assert not of_process(os.getpid())


@pytest.mark.emulation
@pytest.mark.slow
def test_limited_hosts_compute_slower_and_the_run_folder_says_how_they_were_throttled(tmp_path: Path) -> None:
    compute, throttled = {}, {}
    for name, limits in (("free", {}), ("limited", {"cloud": 0.05})):
        asked = scenario(
            limits,
            requests={"count": 4, "warmup": 1},
            planning={"planners": ["cloud-only"], "replan": "never"},
        )
        run(asked, MininetBackend(), tmp_path / name)
        with open(tmp_path / name / "inferences.csv", newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["warmup"] != "true"]
        assert [row["error"] for row in rows] == [""] * len(rows)
        compute[name] = sum(float(row["latency_s"]) for row in rows)
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        throttled[name] = manifest.get("throttling")
        assert ("cpu_limits" in manifest["backend"]) == bool(limits)
    assert throttled["free"] is None
    (figures,) = throttled["limited"].values()
    assert figures["periods"] >= figures["throttled"] > 0
    assert figures["throttled_s"] > 0
    assert compute["limited"] > compute["free"]  # a twentieth of a CPU against one
    assert not of_process(os.getpid())


@pytest.mark.emulation
def test_a_trace_of_cpu_shares_moves_the_quota() -> None:
    asked = scenario({"c1": 0.8})

    async def main(session: Any) -> tuple[int, int]:
        await session.cpu_share("c1", 0.25)
        await session.cpu_share("e1", 0.25)  # not limited: nothing to do
        return tuple(session._limits.read_back("c1"))  # type: ignore[return-value]

    assert MininetBackend().run(asked, main) == (2_000, 10_000)


@pytest.mark.emulation
@pytest.mark.slow
def test_traces_and_slow_faults_of_a_run_move_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "busy.csv"
    trace.write_text("time_s,cpu_share\n0,1.0\n0.3,0.5\n100,0.5\n")
    asked = scenario(
        {},
        hosts={"cloud": {"cpus": 0.8, "trace": str(trace)}},
        fault=[{"kind": "slow", "host": "c1", "factor": 4, "at": "0.6 s"}],
        requests={"arrival": "fixed", "rate": "10 /s", "count": 12},
        planning={"planners": ["cloud-only"], "replan": "never"},
    )
    found: list[tuple[int, int]] = []
    share = CpuLimits.share

    def seen(limits: CpuLimits, host: str, value: float) -> None:
        share(limits, host, value)
        found.append(limits.read_back(host))

    monkeypatch.setattr(CpuLimits, "share", seen)
    run(asked, MininetBackend(), tmp_path / "run")
    for quota in (8_000, 4_000, 1_000):  # all of it, half, and a quarter of the half
        assert quota in [own for own, period in found if period == 10_000]


@pytest.mark.emulation
def test_groups_of_a_killed_testbed_are_removed_by_the_next() -> None:
    code = (
        "import asyncio, sys\nsys.path[:0] = ['tests']\nfrom test_cpu_limits import scenario\n"
        "from testbed.backends.mininet import MininetBackend\n"
        "async def main(session):\n    print('up', flush=True)\n    await asyncio.sleep(600)\n"
        "MininetBackend().run(scenario({'edge': 0.5}), main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
        family = descendants(process.pid)
        (name,) = of_process(process.pid)
        with CpuLimits({"x": 1.0}):
            assert of_process(process.pid) == {name}  # it lives: another run leaves it alone
        process.send_signal(signal.SIGKILL)
        process.wait()
    until(lambda: all(map(gone, family)))
    assert of_process(process.pid) == {name}
    with CpuLimits({"x": 1.0}):
        assert not of_process(process.pid)
    assert not of_process(os.getpid())
