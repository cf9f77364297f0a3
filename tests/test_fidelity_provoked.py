"""Every invariant of a run is made to fail on purpose, in a whole run, and the verdict names it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conformance import scenario as conformance

from testbed.backends import invariants
from testbed.backends.mininet import MininetBackend
from testbed.backends.vkernel import VkernelBackend
from testbed.kernel import cache
from testbed.orchestrator import run
from testbed.scenario.schema import Scenario

emulation = pytest.mark.emulation
slow = pytest.mark.slow
built = pytest.mark.skipif(cache.installed() is None, reason="the time-travel kernel is not built: testbed kernel build")


def scenario(**changes: Any) -> Scenario:
    """A device, an edge host and a cloud without delays; a second or two of requests to the cloud."""
    raw: dict[str, Any] = {
        "name": "provoked",
        "model": {"names": [conformance.MODEL]},
        "topology": {"devices": 1, "edges": 1},
        "links": {
            "access": {"rate": "40 Mbit/s", "delay": "0 s"},
            "lan": {"rate": "100 Mbit/s", "delay": "0 s"},
            "backbone": {"rate": "2 Mbit/s", "delay": "0 s"},
        },
        "requests": {"count": 20, "warmup": 1},
        "planning": {"planners": ["cloud-only"]},
    }
    for name, table in changes.items():
        raw[name] = {**raw.get(name, {}), **table}
    return Scenario.model_validate(raw)


def failing(folder: Path) -> dict[str, str]:
    """Level of every invariant that does not hold, by name; the verdict's own words are checked to hold each."""
    document = json.loads((folder / "fidelity.json").read_text())
    found = [*document["backend"], *(i for session in document["sessions"] for i in session["invariants"])]
    levels = {i["name"]: i["level"] for i in found if i["level"] != "ok"}
    for name in levels:
        assert any(f"{name} = " in line for line in document["failing"]), document["failing"]
    if levels:
        assert document["verdict"] == ("rejected" if "rejected" in levels.values() else "degraded")
    return levels


Listener = Callable[[dict[str, Any]], None]


def over_mininet(tmp_path: Path, listener: Listener | None = None, **changes: Any) -> dict[str, str]:
    run(scenario(**changes), MininetBackend(), tmp_path / "run", listener)
    return failing(tmp_path / "run")


@contextmanager
def busy_cpus() -> Iterator[None]:
    """Twice as many processes that compute as this machine has CPUs."""
    processes = [multiprocessing.get_context("spawn").Process(target=_spin) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _spin() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        sum(range(100_000))


@emulation
@slow
def test_a_real_time_run_without_free_cpus_is_named(tmp_path: Path) -> None:
    with busy_cpus():
        levels = over_mininet(tmp_path, requests={"count": 30, "think_time": "100 ms"})
    assert levels["idle_cpu"] == "degraded"


@emulation
@slow
def test_computing_that_takes_longer_than_modelled_is_named(tmp_path: Path) -> None:
    levels = over_mininet(tmp_path, hosts={"cloud": {"speed": 100_000.0}}, requests={"count": 3})
    assert levels["compute_overrun"] == "rejected"


def _wrong_rate(event: dict[str, Any]) -> None:
    """Behind the backend's back: a hundred times the rate on every shaped port of the backbone."""
    if event["event"] != "session":
        return
    inside = _inside()

    def said(*words: str) -> str:
        return subprocess.run([*inside, *words], capture_output=True, text=True, check=True).stdout

    devices = subprocess.run([*inside, "ls", "/sys/class/net"], capture_output=True, text=True, check=True).stdout.split()
    changed = 0
    for device in devices:
        shown = subprocess.run(
            [*inside, "tc", "class", "show", "dev", device], capture_output=True, text=True, check=False
        ).stdout
        for line in shown.splitlines():
            words = line.split()
            if words[:2] == ["class", "htb"] and "200Kbit" in words:
                parent = words[words.index("parent") + 1] if "parent" in words else words[3]
                change = ["tc", "class", "change", "dev", device, "parent", parent, "classid", words[2], "htb", "rate", "20mbit"]
                said(*change)
                changed += 1
    assert changed == 2  # up and down


def _inside() -> list[str]:
    """The command that enters the namespaces of this process's emulated network."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                net = os.readlink(entry / "ns/net")
            except OSError:
                continue
            if b"testbed.backends.emulation" in words and net != os.readlink("/proc/self/ns/net") and _descends(entry):
                return ["nsenter", "-t", entry.name, "-n", "-m", "-p"]
    raise AssertionError("no emulated network of ours is running")


def _descends(entry: Path) -> bool:
    while entry.name not in ("0", "1", str(os.getpid())):
        entry = Path("/proc", (entry / "stat").read_text().rpartition(")")[2].split()[1])
    return entry.name == str(os.getpid())


@emulation
@slow
def test_a_link_that_has_another_rate_than_asked_for_is_named(tmp_path: Path) -> None:
    slow = {"backbone": {"rate": "200 kbit/s", "delay": "0 s"}}  # half a second for an input
    levels = over_mininet(tmp_path, _wrong_rate, links=slow, requests={"count": 60})
    assert levels["rate_read_back"] == "rejected"
    assert levels["link_rate"] == "rejected"


@emulation
@slow
def test_trace_steps_and_timers_that_come_late_are_named(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text("time_s,rate_mbps\n" + "".join(f"{k / 20},{2 + k % 3}\n" for k in range(100)))

    def stop_the_loop(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] % 5 == 0:
            time.sleep(0.4)

    backbone = {"trace": str(tmp_path / "steps.csv"), "delay": "0 s"}
    levels = over_mininet(tmp_path, stop_the_loop, links={"backbone": backbone})
    assert levels["trace_lateness_s"] == "rejected"
    assert levels["event_loop_lag_s"] == "rejected"


TIGHT = {"backbone": {"rate": "2 Mbit/s", "delay": "0 s", "queue": "4 kB"}}


@emulation
@slow
def test_drops_on_a_queue_that_is_too_short_are_named(tmp_path: Path) -> None:
    assert over_mininet(tmp_path, links=TIGHT)["unasked_drops"] in ("degraded", "rejected")


@built
@slow
def test_drops_in_the_time_travel_kernel_are_named(tmp_path: Path) -> None:
    run(scenario(links=TIGHT), VkernelBackend(), tmp_path / "run")
    assert failing(tmp_path / "run")["unasked_drops"] in ("degraded", "rejected")


def trip(found_ms: float | None, expected_ms: float = 40.0) -> dict[str, Any]:
    return {"hosts": ["d1", "c1"], "expected_s": expected_ms / 1e3, "found_s": None if found_ms is None else found_ms / 1e3}


@pytest.mark.parametrize(
    ("trips", "level"),
    [
        ([trip(40.0), trip(0.3, 0.0)], "ok"),
        ([trip(40.0), trip(43.0)], "degraded"),
        ([trip(20.0), trip(40.0)], "rejected"),
        ([trip(60.0)], "rejected"),
        ([trip(None)], "rejected"),
        ([], "ok"),
    ],
)
def test_an_idle_round_trip_that_is_not_the_configured_one_is_named(trips: list[dict[str, Any]], level: str) -> None:
    found = invariants.idle_round_trips(trips)
    assert (found.name, found.level) == ("idle_rtt", level)
    if level != "ok":
        assert "d1 and c1" in found.detail
