"""What users get wrong or run into, end to end: each is refused or carried in words, never a traceback, a hang or a lie."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from cli_words import refused, said
from orchestration import scenario

from testbed.backends.sim import SimBackend
from testbed.errors import RunError
from testbed.orchestrator import results, run
from testbed.report import load

SCENARIO = """\
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
count = 4
[planning]
planners = ["d3"]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path / "s.toml"


def sim(capsys: Any, file: Path, *changes: str, code: int = 0, planner: str = "d3") -> Path:
    """Run the scenario with some keys changed, and return its folder."""
    folder = file.parent / "out"
    words = [word for change in changes for word in ("--set", change)]
    said(capsys, "run", file, "--backend", "sim", "--planner", planner, "--out", folder, *words, code=code)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        *("planning.interval=0 s", "planning.probe_interval=0 s", "requests.deadline=0 s", "run.wall_limit=0 s"),
        *("links.backbone.rate=0 bit/s", "links.backbone.queue=0 B", "links.backbone.loss=100 %", "planning.probe_size=0 B"),
        *("run.time_scale=inf", "run.time_scale=nan", "requests.deadline=1e999 s", "hosts.edge.speed=inf"),
        *("requests.count=0", "topology.edges=0", "planning.planners=[]", "model.names=[]"),
    ],
)
def test_quantities_that_make_no_sense_are_refused_with_their_key(capsys, file, change):
    assert change.partition("=")[0] in refused(capsys, "run", file, "--backend", "sim", "--set", change)
    assert not (file.parent / "runs").exists()


def test_an_arrival_rate_of_nothing_is_refused(capsys, file):
    words = ("--set", "requests.arrival=fixed", "--set", "requests.rate=0 /s")
    assert "requests.rate: input should be greater than 0" in refused(capsys, "run", file, "--backend", "sim", *words)


@pytest.mark.parametrize("target", ["s.toml", "s.toml/run", "/proc/nothing/run"])
def test_a_folder_that_cannot_be_made_is_named(capsys, file, target):
    assert target in refused(capsys, "run", file, "--backend", "sim", "--out", target)


class FullDisk(io.BytesIO):
    """A file on a disk with room for a few rows."""

    def write(self, text: Any) -> int:
        if self.tell() + len(text) > 1500:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_full_disk_ends_the_run_and_names_the_file(tmp_path, monkeypatch):
    original = results.Table.__init__

    def small(self: results.Table, *arguments: Any) -> None:
        original(self, *arguments)
        self._file.close()
        self._file = FullDisk()

    monkeypatch.setattr(results.Table, "__init__", small)
    with pytest.raises(RunError, match=r"inferences\.csv cannot be written: No space left on device"):
        run(scenario(requests={"count": 500}), SimBackend(), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"


def test_more_edge_hosts_than_rows_of_the_map_just_work(capsys, file):
    folder = sim(
        capsys,
        file,
        "topology.edges=8",
        "compute.tensors=real",
        "hosts.edge.profile=jetson-nano-fp16",
        "links.lan.rate=10 Gbit/s",
    )
    found = load(folder)
    assert found.verdict == "trusted"
    assert found.answered["correct"].all()


def test_a_load_beyond_capacity_queues_and_ends(capsys, file):
    changes = ("requests.arrival=fixed", "requests.rate=20 /s", "requests.count=60")
    found = load(sim(capsys, file, *changes, planner="cloud-only")).answered
    assert len(found) == 60
    assert found["latency_s"].iloc[-1] > 5 * found["latency_s"].iloc[0]


def test_deadlines_that_pass_are_named_failures_and_count_in_the_verdict(capsys, file):
    changes = ("requests.arrival=fixed", "requests.rate=20 /s", "requests.count=40", "requests.deadline=1 s")
    folder = sim(capsys, file, *changes, planner="cloud-only")
    found = load(folder)
    assert 0 < len(found.answered) < 40
    assert set(found.measured["error"].dropna()) == {"DeadlineExceeded"}
    fidelity = json.loads((folder / "fidelity.json").read_text())
    assert (fidelity["verdict"], len(fidelity["failing"])) == ("degraded", 1)
    assert "failed_requests" in fidelity["failing"][0]


def test_two_devices_with_poisson_arrivals_each_have_a_stream_of_their_own(capsys, file):
    folder = sim(capsys, file, "topology.devices=2", "requests.arrival=poisson", "requests.rate=2 /s")
    with (folder / "inferences.csv").open() as table:
        rows = [row for row in csv.DictReader(table) if row["warmup"] == "false"]
    due = {device: [row["due_s"] for row in rows if row["device"] == device] for device in ("d1", "d2")}
    assert [len(moments) for moments in due.values()] == [4, 4]
    assert not set(due["d1"]) & set(due["d2"])


def test_two_sites_serve_two_devices_each(capsys, file):
    found = load(sim(capsys, file, "topology.name=two_sites", "topology.devices=2"))
    assert found.answered["device"].value_counts().tolist() == [4, 4, 4, 4]
    assert len(set(found.manifest["leaders"].values())) == 4


def test_a_busy_edge_computes_longer(capsys, file):
    (file.parent / "share.csv").write_text("time_s,cpu_share\n0,0.25\n100,0.25\n")
    busy = load(sim(capsys, file, "hosts.edge.trace=share.csv", planner="edge-only"))
    (file.parent / "out").rename(file.parent / "busy")
    free = load(sim(capsys, file, planner="edge-only"))
    assert busy.verdict == "trusted"
    ratio = busy.answered["compute_edge_s"].mean() / free.answered["compute_edge_s"].mean()
    assert ratio == pytest.approx(4.0)


def test_loss_slows_a_transfer_down(capsys, file):
    def seconds(loss: str) -> float:
        folder = sim(capsys, file, f"links.backbone.loss={loss}", "links.backbone.delay=20 ms", planner="cloud-only")
        mean = float(load(folder).answered["latency_s"].mean())
        folder.rename(folder.with_name(f"out-{loss[0]}"))
        return mean

    assert seconds("5 %") > 1.5 * seconds("0 %")


def test_a_cellular_uplink_keeps_device_to_cloud_traffic_off_the_backbone(capsys, file):
    changes = ("topology.cellular=true", "links.cellular.rate=5 Mbit/s", "network.route=direct")
    links = load(sim(capsys, file, *changes, planner="cloud-only")).links
    crossed = links[(links["kind"] == "total") & (links["direction"] == "up")].set_index("link")["message_bytes"]
    assert crossed["cellular-d1"] > 4 * 600_000
    assert crossed["backbone"] == 0


def test_a_cellular_uplink_where_there_is_none_is_refused(capsys, file):
    assert "[links.cellular]" in refused(capsys, "run", file, "--backend", "sim", "--set", "links.cellular.rate=5 Mbit/s")
    words = ("--set", "topology.name=two_sites", "--set", "topology.cellular=true")
    assert "no cellular uplinks" in refused(capsys, "run", file, "--backend", "sim", *words)
