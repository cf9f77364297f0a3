"""`testbed run --watch`: what is shown is what the run records, at that moment; it fits the terminal, and ends cleanly."""

from __future__ import annotations

import copy
import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from orchestration import swinging
from rich.console import Console

from testbed import registry
from testbed.cli import main
from testbed.cli.watch import RunWatch
from testbed.costs.network import frame_bytes
from testbed.orchestrator import run
from testbed.orchestrator.world import prepare
from testbed.report import load, units
from testbed.report.live import WINDOW_S, Live
from testbed.report.live_view import view
from testbed.scenario.load import build
from testbed.scenario.schema import Scenario

AT = 9
"""The measured request of d3's session behind whose end the shown values are looked at."""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return build(
        {
            "name": "watched",
            "model": {"names": ["alexnet"]},
            "topology": {"edges": 3},
            "links": {"backbone": {"trace": swinging(tmp_path_factory.mktemp("trace")), "delay": "5 ms"}},
            "compute": {"tensors": "sizes"},
            "requests": {"count": 14, "warmup": 1, "arrival": "fixed", "rate": "1 /s"},
            "planning": {"planners": ["cloud-only", "d3"]},
        }
    )


@pytest.fixture(scope="module")
def watched(scenario: Scenario, tmp_path_factory: pytest.TempPathFactory) -> tuple[Live, Live, Path]:
    """What was known behind that request, what was known at the end, and the folder."""
    live, moments = Live(), []

    def listen(event: dict[str, Any]) -> None:
        live.take(event)
        if event["event"] == "progress" and live.planner == "d3" and event["request"] == AT and not event["warmup"]:
            moments.append(copy.deepcopy(live))

    folder = tmp_path_factory.mktemp("run") / "out"
    run(scenario, registry.backend("sim"), folder, listen)
    return moments[0], live, folder


def shown(live: Live, width: int) -> str:
    console = Console(record=True, width=width, force_terminal=True, file=io.StringIO())
    console.print(view(live, width, 3.0))
    return console.export_text()


def test_latencies_and_plan_are_those_of_the_records(watched):
    then, _, folder = watched
    found = load(folder)
    own = found.measured[found.measured["planner"] == "d3"]
    over = own[own["request"] <= AT]
    assert list(then.latencies) == pytest.approx(over["latency_s"].tolist(), abs=1e-9)
    assert then.at_s == pytest.approx(float((over["submitted_s"] + over["latency_s"]).max()), abs=1e-6)
    assert then.done == len(found.inferences[found.inferences["planner"] == "cloud-only"]) + 1 + len(over)
    plans = found.plans[(found.plans["planner"] == "d3") & found.plans["installed"] & (found.plans["at_s"] <= then.at_s)]
    assert then.changes == len(plans) - 1 > 0
    plan = plans.iloc[-1]
    assert then.plans["d1"]["epoch"] == plan["epoch"]
    tiers = plan["plan"]["tiers"][1:]
    text = shown(then, 120)
    assert f"{tiers.count('edge')} on edge" in text
    assert f"predicted {units.seconds(plan['predicted_latency_s'])}" in text
    assert f"last {units.seconds(float(over['latency_s'].iloc[-1]))}" in text
    assert f"median {units.seconds(float(over['latency_s'].median()))} of {AT + 1}" in text


def test_links_and_hosts_are_those_of_the_records(watched, scenario):
    then, end, folder = watched
    found = load(folder)
    links = found.links[found.links["planner"] == "d3"]
    states = links[(links["kind"] == "state") & (links["at_s"] <= then.at_s)]
    for (name, direction), own in states.groupby(["link", "direction"]):
        assert then.links[name, direction].rate_bps == pytest.approx(own["rate_bps"].iloc[-1])
    assert f"{units.rate(then.links['backbone', 'up'].rate_bps)}" in shown(then, 120)

    steps = found.steps[(found.steps["planner"] == "d3") & ~found.steps["warmup"].astype(bool)]
    layout = prepare(scenario).layout
    start = max(0.0, then.at_s - WINDOW_S)
    before = steps[steps["request"] <= AT]
    work = before[before["what"] == "compute"]
    for host, own in work.groupby("host"):
        busy = (own["end_s"].clip(upper=then.at_s) - own["start_s"].clip(lower=start)).clip(lower=0.0).sum()
        assert then.hosts[host].utilisation(then.at_s) == pytest.approx(busy / (then.at_s - start), abs=1e-6)
    assert then.hosts["e1"].utilisation(then.at_s) > 0

    sent: dict[tuple[str, str], float] = {}
    for row in steps[steps["what"] == "transfer"].itertuples():
        for link, direction in layout.path(str(row.peer), str(row.host)):
            sent[link.name, direction] = sent.get((link.name, direction), 0.0) + frame_bytes(row.message_bytes)
    assert {key: link.framed_bytes for key, link in end.links.items() if link.framed_bytes} == pytest.approx(sent)


def test_use_is_what_was_carried_of_what_could_have_been():
    live = Live()
    live.take(
        {"event": "run", "scenario": "s", "backend": "sim", "sessions": 1, "requests": 1, "hosts": {}, "links": {"l": "lan"}}
    )
    live.take({"event": "session", "model": "m", "planner": "p", "number": 1})
    for at_s, rate in ((0.0, 8e6), (15.0, 24e6)):
        live.take({"event": "link", "link": "l", "direction": "up", "at_s": at_s, "rate_bps": rate, "delay_s": 0.0, "loss": 0.0})
    link = live.links["l", "up"]
    link.sent.append((8.0, 12.0, 4e6))  # 2 of its 4 seconds lie in the last 10, at 15 s and 20 s alike
    assert link.use(20.0) == pytest.approx(2e6 * 8 / (5 * 8e6 + 5 * 24e6))
    live.take({"event": "link", "link": "l", "direction": "down", "at_s": 0.0, "rate_bps": 0.0, "delay_s": 0.0, "loss": 0.0})
    assert live.links["l", "down"].use(20.0) is None
    assert "outage" not in shown(live, 100)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_it_fits_the_terminal_whatever_its_width(watched, width):
    then, _, _ = watched
    lines = shown(then, width).splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    link = next(line for line in lines if line.startswith("backbone ↑"))
    assert units.rate(then.links["backbone", "up"].rate_bps) in link
    assert units.size(then.links["backbone", "up"].framed_bytes) in link
    assert {"d1", "e1", "e2", "e3", "c1"} <= {word for line in lines for word in line.split()}
    assert any(line.startswith("latency") and "last" in line for line in lines)
    assert not [line for line in lines if "…" in line and not line[:1].isspace() and line.startswith(("backbone", "latency"))]


def test_drawing_waits_for_no_event_and_no_event_for_drawing(scenario, tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    with RunWatch("backend sim", console) as watch:
        run(scenario, registry.backend("sim"), tmp_path / "out", watch)
        last = watch.state
    assert last.done == last.total == 2 * 15
    written = console.file.getvalue()
    assert "watched on sim" in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is back


def test_without_a_terminal_there_are_plain_lines(scenario_file, tmp_path, capsys):
    assert main(["run", str(scenario_file), "--backend", "sim", "--watch", "--out", str(tmp_path / "out")]) == 0
    found = capsys.readouterr()
    assert "alexnet by cloud-only (1/1)" in found.err
    assert "\x1b" not in found.err
    assert "verdict" in found.out


@pytest.fixture
def scenario_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(
        '[model]\nnames = ["alexnet"]\n[links.backbone]\nrate = "20 Mbit/s"\n[compute]\ntensors = "sizes"\n'
        '[requests]\ncount = 4\n[planning]\nplanners = ["cloud-only"]\nprobe_interval = "0.5 s"\n'
    )
    return path


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_leaves_it_as_it_was(scenario_file, tmp_path):
    ours, theirs = pty.openpty()
    words = ["run", str(scenario_file), "--backend", "sim", "--watch", "--out", str(tmp_path / "out")]
    words += ["--set", "requests.count=1000000", "--set", "requests.arrival=fixed", "--set", "requests.rate=1 /s"]
    process = subprocess.Popen(
        [sys.executable, "-m", "testbed.cli", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    )
    os.close(theirs)
    seen = b""
    limit = time.monotonic() + 120.0
    while b"median" not in seen and time.monotonic() < limit:
        seen += os.read(ours, 65536)
    assert b"of scenario time" in seen
    process.send_signal(signal.SIGINT)
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    table = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130
    assert b"Traceback" not in seen
    assert b"interrupted" in seen
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")
    assert "cloud-only" in table
