"""Several runs share one boot of the time-travel kernel: none shows in the next, and one that fails takes no other along."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_kernel_runs import rows, scenario

from testbed import sweep
from testbed.backends.base import Carried
from testbed.backends.vkernel import SharedBoot, VkernelBackend
from testbed.kernel import cache
from testbed.orchestrator import Ended, Task, run_many
from testbed.scenario.schema import Scenario
from testbed.verify.repeat import Conditions, Difference, difference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cache.installed() is None, reason="the time-travel kernel is not built: testbed kernel build"),
]

PLANNER = """
from testbed.planners.single import CloudOnly

class Broken(CloudOnly):
    def plan(self, *given, **named):
        raise RuntimeError("broken on purpose")
"""

EQUAL_S = 5e-6
"""Two runs are the same. Linux keeps round trips in whole microseconds, so that a nanosecond more of the phase in which a run
begins can be a microsecond in a timer of TCP; what is promised is a millisecond (`testbed.verify.repeat`)."""

TRACE = "time_s,rate_mbps\n0,3\n0.9,0\n2.6,1\n4.3,0\n10.4,5\n"
"""Outages, so that retransmission timers of all lengths run out."""


@dataclass(frozen=True)
class Found:
    """What became of the runs: how each ended, all events, the guest's state before and after the first eight, whether it
    stood still then, and what was left of guests in the folder for temporary files."""

    ended: dict[str, Ended]
    events: list[dict[str, Any]]
    before: dict[str, float]
    after: dict[str, float]
    stopped: bool
    left: list[Path]

    def apart(self, first: str, other: str) -> Difference:
        return difference(self.ended[first].task.folder, self.ended[other].task.folder, Conditions())


def asked(folder: Path, **changes: Any) -> Scenario:
    return scenario(
        compute={"tensors": "sizes"},
        requests={"count": 4, "arrival": "fixed", "rate": "0.3 /s"},
        planning={"planners": ["cloud-only"]},
        **changes,
    )


def tasks(folder: Path) -> Iterator[Task]:
    (folder / "swing.csv").write_text(TRACE)
    (folder / "planner.py").write_text(PLANNER)
    swing = {"backbone": {"trace": str(folder / "swing.csv"), "delay": "10 ms"}}
    noisy = {"backbone": {"rate": "4 Mbit/s", "delay": "10 ms", "jitter": "3 ms", "loss": "5 %"}}
    large = {"links": {"backbone": {"rate": "5 Mbit/s", "delay": "20 ms"}}, "model": {"names": ["alexnet"]}}
    bbr = {**large, "network": {"congestion_control": "bbr"}}
    wanted = {
        "swing": asked(folder, links=swing),
        "noise": asked(folder, links=noisy).model_copy(update={"seed": 5}),
        "swing-third": asked(folder, links=swing),
        "noise-again": asked(folder, links=noisy).model_copy(update={"seed": 5}),
        "noise-other": asked(folder, links=noisy).model_copy(update={"seed": 6}),
        "cubic": asked(folder, **large),
        "bbr": asked(folder, **bbr),
        "bbr-again": asked(folder, **bbr),
        "broken": asked(folder).model_copy(
            update={"planning": asked(folder).planning.model_copy(update={"planners": (f"{folder}/planner.py:Broken",)})}
        ),
        "killed": asked(folder),
        "swing-rebooted": asked(folder, links=swing),
    }
    for name, one in wanted.items():
        yield Task(name, one, folder / name)


def guests() -> list[tuple[int, str]]:
    """Number and state of this process's guests."""
    kernel = cache.installed()
    assert kernel is not None
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and os.readlink(entry / "exe") == str(kernel.program):
                found.append((int(entry.name), status))
        except OSError:
            continue
    return found


def kill_guest() -> None:
    for process, _ in guests():
        os.kill(process, signal.SIGKILL)


def stands_still() -> bool:
    """Whether the guest is stopped, or will be in a moment."""
    for _ in range(200):
        if [status for _, status in guests()] == ["T"]:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("shared")
    events: list[dict[str, Any]] = []
    running = ""

    def listen(event: dict[str, Any]) -> None:
        nonlocal running
        events.append(event)
        running = event["name"] if event["event"] == "task" else running
        if running == "killed" and event["event"] == "session":
            kill_guest()

    wanted = list(tasks(folder))
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        with VkernelBackend().shared() as boot:
            before = state(boot, folder)
            ended = run_many(wanted[:8], boot, listen)
            after = state(boot, folder)
            stopped = stands_still()
            ended += run_many(wanted[8:], boot, listen)
    return Found({one.task.name: one for one in ended}, events, before, after, stopped, list(temporary.glob("d3-vkernel-*")))


def state(boot: SharedBoot, folder: Path) -> dict[str, float]:
    result: dict[str, float] = boot.carry(asked(folder), Carried("kernel_jobs:state", {}, folder), lambda _event: None)["result"]
    return result


def test_a_run_is_the_same_alone_third_in_a_boot_and_after_another_boot(found: Found) -> None:
    for name in ("swing-third", "swing-rebooted"):
        apart = found.apart("swing", name)
        assert apart.unequal == ()
        assert apart.latency_s < EQUAL_S, apart
    assert max(float(row["latency_s"]) for row in rows(found.ended["swing"].task.folder)) > 3.0  # it went through an outage
    guest = [manifest(found, name)["backend"]["guest"] for name in ("swing", "swing-third")]
    assert [one["run"] for one in guest] == [2, 4]
    assert guest[1]["virtual_s"] - guest[0]["virtual_s"] > 100.0


def test_losses_and_jitter_repeat_with_the_seed_and_only_with_it(found: Found) -> None:
    again, other = found.apart("noise", "noise-again"), found.apart("noise", "noise-other")
    assert again.unequal == ()
    assert again.latency_s < EQUAL_S, again
    assert other.latency_s > 0.001
    with (found.ended["noise"].task.folder / "links.csv").open() as file:
        lost = sum(int(row["lost"] or 0) for row in csv.DictReader(file) if row["kind"] == "total" and row["link"] == "backbone")
    assert lost >= 3


def test_runs_with_bbr_repeat(found: Found) -> None:
    again = found.apart("bbr", "bbr-again")
    assert again.unequal == ()
    assert again.latency_s < EQUAL_S, again
    assert manifest(found, "bbr")["congestion_control"] == "bbr"
    assert found.apart("cubic", "bbr").latency_s > 0.001


def test_a_run_that_fails_and_a_guest_that_dies_cost_only_their_own_run(found: Found) -> None:
    failed = {name: str(one.error) for name, one in found.ended.items() if one.error is not None}
    assert failed.keys() == {"broken", "killed"}
    assert "broken on purpose" in failed["broken"]
    assert "guest ended without a result" in failed["killed"]
    assert manifest(found, "killed")["status"] == "failed"
    assert manifest(found, "swing-rebooted")["backend"]["guest"]["run"] == 1
    assert sum(event["event"] == "booting" for event in found.events) == 1  # the first boot was before
    assert [event["name"] for event in found.events if event["event"] == "task_failed"] == ["broken", "killed"]


def test_nothing_piles_up_in_a_guest(found: Found) -> None:
    assert found.before["free_mib"] - found.after["free_mib"] < 60.0


def test_a_guest_without_work_stands_still_and_leaves_nothing(found: Found) -> None:
    assert found.stopped
    assert found.left == []


@pytest.mark.long
def test_the_cells_of_a_sweep_share_a_boot_for_each_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "sweep.toml").write_text(
        'name = "small"\nscenario = "quickstart"\nbackend = "vkernel"\n'
        '[set]\n"compute.tensors" = "sizes"\n"requests.count" = 2\n'
        '[axes]\nmodels = ["alexnet"]\nplanners = ["cloud-only", "edge-only"]\nseeds = 2\n'
    )
    plan = sweep.plan(sweep.read(tmp_path / "sweep.toml"))
    outcome = sweep.execute(plan, tmp_path / "out", workers=1)
    assert (outcome.finished, outcome.failures) == (4, ())
    manifests = [json.loads((tmp_path / "out" / "runs" / cell.key / "manifest.json").read_text()) for cell in plan.cells]
    assert [one["backend"]["guest"]["run"] for one in manifests] == [1, 2, 3, 4]
    assert list((tmp_path / "temporary").glob("d3-vkernel-*")) == []


def manifest(found: Found, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((found.ended[name].task.folder / "manifest.json").read_text())
    return document
