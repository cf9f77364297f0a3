"""The command line: bad input is refused in words with exit code 2, figures come as tables and JSON, results survive Ctrl-C."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_words import refused, said

from testbed import machine, registry
from testbed.backends.base import Support
from testbed.backends.mininet import MininetBackend
from testbed.backends.vkernel import VkernelBackend
from testbed.cli import main
from testbed.cli.run import exit_code
from testbed.orchestrator import summarise
from testbed.report import load

SMALL = """\
[model]
names = ["alexnet"]

[topology]
edges = 2

[links.backbone]
rate = "20 Mbit/s"

[hosts.device]
profile = "raspberry-pi-4"

[compute]
tensors = "sizes"

[requests]
count = 3

[planning]
planners = ["cloud-only", "d3"]
"""

VERBS = ["doctor", "models", "plan", "run", "report", "verify", "profile", "traces"]


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(capsys, verb):
    out, _ = said(capsys, verb, "--help", code=0)
    assert "Usage: testbed" in out


def test_no_verb_and_a_wrong_option_are_bad_input(capsys):
    assert main(["--help"]) == 0
    assert "Commands" in capsys.readouterr().out
    assert main(["run"]) == 2
    assert main(["doctor", "--jsn"]) == 2


def test_a_run_ends_with_a_table_and_a_folder(capsys, small, tmp_path):
    folder = tmp_path / "out"
    out, err = said(capsys, "run", small, "--backend", "sim", "--out", folder, code=0)
    for word in ("cloud-only", "d3", "p95", "speed-up", "trusted", "float32", "relay", str(folder)):
        assert word in out
    assert "alexnet by cloud-only (1/2)" in err
    run = load(folder)
    assert len(run.measured) == len(run.answered) == 6
    assert run.verdict == "trusted"
    assert set(run.plans["planner"]) == {"cloud-only", "d3"}
    assert {"link", "rate_bps"} <= set(run.links.columns)
    assert run.manifest["scenario"]["name"] == "small"
    assert "run_end" in set(run.events["event"])
    again, _ = said(capsys, "report", folder, code=0)
    assert again == out
    plans, _ = said(capsys, "report", folder, "--plans", code=0)
    assert plans.startswith(out)
    assert "first" in plans


def test_json_of_run_and_report_is_the_same_summary(capsys, small, tmp_path):
    folder = tmp_path / "out"
    out, _ = said(capsys, "run", small, "--backend", "sim", "--planner", "d3", "--seed", "7", "--out", folder, "--json", code=0)
    found = json.loads(out)
    assert (found["seed"], found["backend"], found["verdict"]) == (7, "sim", "trusted")
    assert [pair["planner"] for pair in found["pairs"]] == ["d3"]
    assert found["pairs"][0]["p95_s"] > 0
    beside, _ = said(capsys, "report", folder, folder, code=0)
    assert "side by side" in beside
    assert "verdicts:" in beside
    assert "--plans is for one run" in refused(capsys, "report", folder, folder, "--plans")
    out, _ = said(capsys, "report", folder, "--json", code=0)
    assert json.loads(out) == found


def test_set_and_model_change_the_scenario(capsys, small, tmp_path):
    said(
        capsys,
        *("run", small, "--backend", "sim", "--planner", "edge-only", "--model", "resnet18", "--out", tmp_path / "out"),
        *("--set", "requests.count=2", "--set", "links.backbone.delay=5 ms", "--set", 'links."lan-e2".rate="10 Mbit/s"'),
        code=0,
    )
    scenario = load(tmp_path / "out").manifest["scenario"]
    assert scenario["model"]["names"] == ["resnet18"]
    assert scenario["requests"]["count"] == 2
    assert scenario["links"]["backbone"]["delay"] == pytest.approx(0.005)
    assert scenario["links"]["lan-e2"]["rate"] == 10e6


@pytest.mark.parametrize("verb", [("run", "--backend", "sim"), ("plan",)])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--set", "links.backbone.rat=1 Mbit/s"], 'did you mean "rate"?'),
        (["--set", "links.backbone.rate=30 ms"], '"ms" is a unit of duration'),
        (["--set", "links.backbone.trace=nowhere.csv"], "links.backbone.trace: nowhere.csv: no such trace"),
        (["--set", "links.backbone.trace=bad.csv"], "bad.csv, line 3"),
        (["--set", "links.backbon.rate=1 Mbit/s"], 'did you mean "backbone"?'),
        (["--set", "hosts.e7.speed=2"], "[hosts.e7]"),
        (["--set", "hosts.edge.profile=deskto"], 'unknown profile "deskto"'),
        (["--set", "topology.edges=0"], "topology.edges: input should be greater than or equal to 1"),
        (["--set", "topology.name=star"], 'unknown topology "star"'),
        (["--planner", "hpaa"], 'unknown planner "hpaa"; did you mean "hpa"?'),
        (["--model", "vgg61"], "did you mean 'vgg16'?"),
        (["--model", "nowhere.pt2"], "no such file"),
        (["--set", "planning.options.sis=sideways"], "sideways"),
        (["--set", "nonsense"], "expected key.path=value"),
    ],
)
def test_bad_input_is_refused_in_words(capsys, small, tmp_path, monkeypatch, verb, change, says):
    (tmp_path / "bad.csv").write_text("time_s,rate_mbps\n0,10\n1,many\n")
    monkeypatch.chdir(tmp_path)
    err = refused(capsys, verb[0], small, *verb[1:], *change)
    assert err.startswith("error: ")
    assert says in " ".join(err.split())


def test_files_that_are_not_what_they_should_be(capsys, small, tmp_path):
    assert 'did you mean "quickstart"?' in refused(capsys, "run", "quikstart")
    broken = tmp_path / "broken.toml"
    broken.write_text("[model\n")
    assert "line 1" in refused(capsys, "run", broken)
    assert "not a run folder" in refused(capsys, "report", tmp_path / "nowhere")
    assert "not a run folder" in refused(capsys, "report", tmp_path)
    assert "no such trace" in refused(capsys, "traces", "show", "nowhere")
    assert "unknown backend" in refused(capsys, "run", small, "--backend", "ns3")
    assert "no packets to capture" in refused(capsys, "run", small, "--backend", "sim", "--capture")
    assert "--at" in refused(capsys, "plan", small, "--at", "12")


def test_a_folder_with_something_in_it_is_not_overwritten(capsys, small, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.csv").write_text("1")
    assert "not empty" in refused(capsys, "run", small, "--backend", "sim", "--out", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.csv"]


def test_a_run_cut_off_by_its_limit_fails_and_keeps_its_folder(capsys, small, tmp_path):
    _, err = said(capsys, "run", small, "--backend", "sim", "--out", tmp_path / "out", "--set", "run.wall_limit=1 us", code=1)
    assert "run.wall_limit" in err
    assert f"kept in {tmp_path / 'out'}" in err
    assert load(tmp_path / "out").verdict == "rejected"


def test_requests_that_fail_say_why(capsys, small, tmp_path):
    words = ("run", small, "--backend", "sim", "--planner", "d3", "--out", tmp_path / "out", "--set", "requests.deadline=1 ms")
    out, _ = said(capsys, *words, code=1)
    assert "alexnet by d3: 3 failed with" in out
    assert "0/3" in out


def test_a_rejected_verdict_has_an_exit_code_of_its_own(capsys, small, tmp_path):
    said(capsys, "run", small, "--backend", "sim", "--planner", "d3", "--out", tmp_path / "out", code=0)
    summary = summarise(tmp_path / "out")
    assert exit_code(summary) == 0
    assert exit_code(dataclasses.replace(summary, verdict="degraded")) == 0
    assert exit_code(dataclasses.replace(summary, verdict="rejected")) == 3


class Machine(machine.Probe):
    """A machine without root, Mininet, or netem."""

    def which(self, program: str) -> str | None:
        return None if program in ("mnexec", "ethtool") else f"/usr/bin/{program}"

    def version(self, package: str) -> str | None:
        return None if package in ("mininet", "seaborn") else "1.0"

    def root(self) -> bool:
        return False

    def works(self, script: str) -> bool:
        return "netem" not in script


def test_the_doctor_names_the_packages_that_are_missing(capsys, monkeypatch):
    facts = machine.facts(Machine())
    assert (facts["root"], facts["netem"], facts["htb"]) == (False, False, True)
    assert facts["advice"][0] == "sudo apt-get install ethtool mininet"
    assert "'d3-testbed[analysis,emulation]'" in facts["advice"][1]
    assert any("vagrant" in line for line in facts["ways_to_netem"])
    monkeypatch.setattr(machine, "Probe", Machine)
    out, _ = said(capsys, "doctor", code=0)
    assert "✗ mnexec" in out
    assert "sudo apt-get install ethtool mininet" in out
    out, _ = said(capsys, "doctor", "--json", code=0)
    found = json.loads(out)
    assert found["backends"]["sim"]["ok"] is True
    assert isinstance(found["backends"]["mininet"]["reasons"], list)


def test_auto_takes_sim_where_mininet_cannot_run_and_says_why(capsys, small, tmp_path, monkeypatch):
    real = ("--set", "compute.tensors=real")
    reasons = ["it needs root", "the program mnexec is missing: sudo apt-get install mininet"]
    for kind in (VkernelBackend, MininetBackend):
        monkeypatch.setattr(kind, "support", lambda self, scenario: Support(False, reasons))
    out, err = said(capsys, "run", small, *real, "--planner", "d3", "--out", tmp_path / "out", code=0)
    assert "backend sim: chosen by auto: vkernel cannot run this here: it needs root; the program mnexec" in err
    assert "mininet cannot run this here: it needs root" in err
    assert "small on sim" in out
    assert "sudo apt-get install mininet" in refused(capsys, "run", small, "--backend", "mininet")
    _, err = said(capsys, "run", small, "--planner", "d3", "--out", tmp_path / "sizes", code=0)
    assert 'backend sim: chosen by auto: compute.tensors = "sizes"' in err


def test_auto_takes_the_most_faithful_backend_that_can(small, monkeypatch):
    from testbed.scenario.load import load as read

    monkeypatch.setattr(MininetBackend, "support", lambda self, scenario: Support(True))
    monkeypatch.setattr(VkernelBackend, "support", lambda self, scenario: Support(True))
    assert registry.choose_backend(read(small, ["compute.tensors=real"]))[0].name == "vkernel"
    monkeypatch.setattr(VkernelBackend, "support", lambda self, scenario: Support(False, ["its kernel is not built"]))
    chosen, why = registry.choose_backend(read(small, ["compute.tensors=real"]))
    assert (chosen.name, why) == ("mininet", "vkernel cannot run this here: its kernel is not built")


def test_plan_shows_regret_cuts_and_tiles(capsys, small):
    out, _ = said(capsys, "plan", small, "--planner", "cloud-only", "--planner", "optimal", "--show", code=0)
    for word in ("latency", "regret", "+0.0 %", "device → edge", "features"):
        assert word in out
    out, _ = said(capsys, "plan", "quickstart", "--planner", "d3", "--planner", "optimal", "--json", code=0)
    found = json.loads(out)["plans"]
    assert [(plan["model"], plan["planner"]) for plan in found[:2]] == [("vgg16", "d3"), ("vgg16", "optimal")]
    assert found[0]["plan"]["stacks"]
    assert found[1]["regret"] == pytest.approx(0.0, abs=1e-6)
    assert found[0]["regret"] < 0.0  # tiles beat the untiled optimum here


def test_plan_looks_at_the_moment_that_is_asked_for(capsys, small, tmp_path):
    (tmp_path / "steps.csv").write_text("time_s,rate_mbps\n0,2\n2,60\n")
    words = ("plan", small, "--model", "vgg16", "--planner", "optimal", "--set", "hosts.edge.profile=jetson-tx2", "--json")
    trace = ("--set", "links.backbone.trace=steps.csv")

    def tiers(at: str) -> list[str]:
        out, _ = said(capsys, *words, *trace, "--at", at, code=0)
        found: list[str] = json.loads(out)["plans"][0]["plan"]["tiers"]
        return found

    assert "cloud" not in tiers("0 s")
    assert "cloud" in tiers("2 s")


def test_the_quickstart_makes_d3_re_partition_and_touch_less_than_a_full_plan(capsys, tmp_path):
    words = ("run", "quickstart", "--backend", "sim", "--model", "vgg16", "--planner", "d3", "--planner", "optimal")
    said(capsys, *words, "--set", "compute.tensors=sizes", "--out", tmp_path / "out", code=0)
    d3, optimal = summarise(tmp_path / "out").pairs
    assert d3.plan_changes >= 1
    assert d3.touched_vertices / d3.replans < optimal.touched_vertices / optimal.replans == d3.vertices


@pytest.mark.parametrize(("ending", "ignored"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)])
def test_ctrl_c_and_termination_keep_the_finished_rows_and_exit_130(small, tmp_path, ending, ignored):
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "testbed.cli", "run", str(small), "--backend", "sim", "--out", str(folder)]
    process = subprocess.Popen(
        [*command, "--set", "requests.count=1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "140"},
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,  # as a shell's "&" does
    )
    try:
        table = folder / "inferences.csv"
        deadline = time.monotonic() + 120
        while not (table.is_file() and table.read_text().count("\n") > 20):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(ending)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "cloud-only" in out
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 20
    assert all(float(row["latency_s"]) > 0.0 if row["latency_s"] else row["error"] for row in rows)
    assert json.loads((folder / "manifest.json").read_text())["status"] == "interrupted"
    assert main(["report", str(folder)]) == 0


def test_tracebacks_come_only_with_debug(capsys, tmp_path):
    assert main(["run", str(tmp_path / "nowhere.toml"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
