"""The lossy family in runs: SPINN, Edgent and DDNN with networks that are really trained, real tensors, and outages."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path as FilePath

import numpy as np
import pytest
import torch

from d3node import train
from d3node.calibration import load as calibration_of
from d3node.channel import Message, Payload
from d3node.exits import Exit, probabilities
from d3node.model import ModelSpec, load_model
from d3node.plan import Plan
from d3node.wire import header_bytes
from testbed import registry, report
from testbed.backends.sim import SimBackend
from testbed.orchestrator.experiment import run
from testbed.orchestrator.summary import PairSummary, RunSummary
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.branches import outputs_in_order
from testbed.planners.ddnn import traffic_bytes
from testbed.planners.options import read
from testbed.planners.prices import make_plan
from testbed.planners.spinn import Spinn
from testbed.scenario.load import load
from testbed.scenario.schema import Scenario

Rows = list[dict[str, str]]


def scenario(name: str, *overrides: str) -> Scenario:
    return load(name, overrides)


def went(known: Scenario, folder: FilePath, backend: str = "sim") -> tuple[RunSummary, Rows]:
    summary = run(known, SimBackend() if backend == "sim" else registry.backend(backend), folder)
    with (folder / "inferences.csv").open() as file:
        return summary, [row for row in csv.DictReader(file) if row["warmup"] == "false"]


def of(summary: RunSummary, planner: str) -> PairSummary:
    return next(pair for pair in summary.pairs if pair.planner == planner)


def outage(folder: FilePath, start: float, end: float, rate: str = "1e6") -> str:
    """A trace that is dead between two moments."""
    path = folder / "outage.csv"
    path.write_text(f"time_s,rate_bps\n0,{rate}\n{start},0\n{end},{rate}\n1000,{rate}\n")
    return str(path)


# -- training ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "least"), [("digits-exits", (0.82, 0.90, 0.92, 0.93)), ("digits-views", (0.80, 0.88, 0.90))])
def test_training_reaches_its_accuracy_at_every_exit(source: str, least: tuple[float, ...]) -> None:
    found = calibration_of(source, 0, None).accuracies()
    assert len(found) == len(least)
    assert all(share >= bound for share, bound in zip(found, least, strict=True)), found


@pytest.mark.slow
def test_training_again_gives_the_same_weights_and_another_seed_others(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "EPOCHS", {"digits-exits": 1})
    made = [train._built("digits-exits", seed, None) for seed in (4, 4, 5)]
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    assert not torch.equal(made[0]["model.heads.0.weight"], made[2]["model.heads.0.weight"])


def test_the_three_parts_of_the_data_are_disjoint_and_requests_draw_from_the_last() -> None:
    model = load_model(ModelSpec("digits-exits"))
    images = model.program.constants["data.images"]
    assert len(images) == 1797 - train.TRAIN - train.CALIBRATE
    assert torch.equal(model.image(3), images[3:4])
    assert model.label(3 + len(images)) == model.label(3) == int(model.program.constants["data.labels"][3])


# -- decisions -----------------------------------------------------------------------------------------------------------------


def locally(source: str, seed: int, exits: tuple[Exit, ...]) -> tuple[int, int]:
    """Exit and class of a plain run of the module itself."""
    made = train.load(source, 0, None)
    assert made.data is not None
    images = made.data["images"]
    scores = train.run(made, images[seed % len(images)][None])[0].numpy().astype(np.float64)
    for number, (exit_, row) in enumerate(zip(exits, scores, strict=True)):
        p = np.exp(row) / np.exp(row).sum()
        sure = float(p.max()) if exit_.metric == "confidence" else float(-(p * np.log(p)).sum() / np.log(len(p)))
        if exit_.threshold is None or (sure >= exit_.threshold if exit_.metric == "confidence" else sure <= exit_.threshold):
            return number, int(row.argmax())
    raise AssertionError("the last exit answers in any case")


class Everywhere:
    """Exits 1 and 2 on the device, 3 at the edge, 4 in the cloud: every border is crossed by somebody."""

    name = "everywhere"

    def plan(self, problem: Problem) -> Decision:
        outputs = outputs_in_order(problem.graph)
        border = [0 if v <= outputs[1] else 1 if v <= outputs[2] else 2 for v in range(len(problem.graph))]
        exits = (*(Exit(v, "confidence", 0.9, local=k < 2) for k, v in enumerate(outputs[:-1])), Exit(outputs[-1]))
        return Decision(replace(make_plan(self.name, problem, border), exits=exits), 0.0, frozenset())

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        return self.plan(problem)


def test_exits_decide_as_a_plain_run_of_the_model_does(tmp_path: FilePath) -> None:
    known = scenario("exits", "requests.count=60", "planning.probe_interval='1000 s'")
    summary = run(known, SimBackend(), tmp_path / "run", planners={"everywhere": Everywhere()})
    assert (summary.verdict, summary.failing) == ("trusted", [])
    told = report.load(tmp_path / "run")
    exits = tuple(Exit(e["vertex"], e["metric"], e["threshold"]) for e in told.plans["plan"][0]["exits"])
    rows = told.answered
    assert set(rows["exit"]) == {0, 1, 2, 3}  # every tier answers somebody
    model = load_model(ModelSpec("digits-exits"))
    for row in rows.itertuples():
        number, best = locally("digits-exits", row.input, exits)
        assert row.exit == number
        assert row.label == model.label(row.input)
        assert row.label_correct == (best == row.label)
    early = rows[rows["exit"] < 2]
    assert (early["access_bytes"] == 0).all()  # nothing was sent before the device's exits had decided
    assert (rows[rows["exit"] == 2]["backbone_bytes"] == 0).all()
    assert (rows[rows["exit"] == 3]["backbone_bytes"] > 0).all()
    assert rows["correct"].isna().all()  # nobody promised the whole model's answer


def test_sizes_only_runs_take_exits_at_the_measured_rates_and_repeat(tmp_path: FilePath) -> None:
    asked = ("compute.tensors='sizes'", "requests.count=400", "planning.planners=['spinn']", "planning.probe_interval='1000 s'")
    first, rows = went(scenario("exits", *asked), tmp_path / "one")
    went(scenario("exits", *asked), tmp_path / "two")
    went(scenario("exits", *asked, "seed=2"), tmp_path / "three")
    texts = [(tmp_path / name / "inferences.csv").read_text() for name in ("one", "two", "three")]
    assert texts[0] == texts[1]
    assert [r["exit"] for r in rows] != [
        line.split(",")[texts[0].split("\n")[0].split(",").index("exit")] for line in texts[2].strip().split("\n")[2:]
    ]
    notes = report.load(tmp_path / "one").plans["plan"][0]["notes"]
    assert of(first, "spinn").exit_shares["0"] == pytest.approx(notes["exit_rates"][0], abs=0.08)
    assert of(first, "spinn").accuracy != of(first, "spinn").accuracy  # NaN: nobody computed anything


# -- SPINN ---------------------------------------------------------------------------------------------------------------------


class Halfway(Spinn):
    """SPINN, with one of its configurations given: the split behind the second convolution, exits at 0.9."""

    def plan(self, problem: Problem) -> Decision:
        found = self.configurations(problem, read(problem, self.name))
        second = problem.graph.outputs[1]
        (one,) = (c for c in found if c.threshold == 0.9 and c.plan.part("device")[-1] == second)
        return self._decision(problem, one, True)


def halfway(folder: FilePath, *overrides: str) -> tuple[PairSummary, Rows, RunSummary]:
    quiet = ("planning.replan='never'", "planning.probe_interval='1000 s'", "planning.planners=['spinn']")
    known = scenario("exits", *quiet, *overrides)
    summary = run(known, SimBackend(), folder, planners={"spinn": Halfway()})
    with (folder / "inferences.csv").open() as file:
        return of(summary, "spinn"), [row for row in csv.DictReader(file) if row["warmup"] == "false"], summary


def test_spinn_falls_back_on_the_devices_exit_while_the_link_is_dead(tmp_path: FilePath) -> None:
    spinn, rows, summary = halfway(
        tmp_path / "run",
        "requests.count=60",
        "requests.think_time='100 ms'",
        "planning.options.spinn.timeout_ms=400",
        f"links.backbone.trace='{outage(tmp_path, 2.0, 6.0)}'",
    )
    plan = report.load(tmp_path / "run").plans["plan"][0]
    assert (plan["coding"], plan["fallback_s"]) == ("int8-shuffle-deflate", 0.4)
    assert spinn.failed == 0
    fallen = [row for row in rows if row["fallback"] == "true"]
    assert 2 <= spinn.fallbacks == len(fallen) < len(rows)
    assert all(1.6 < float(row["submitted_s"]) < 6.0 for row in fallen)
    assert all(float(row["latency_s"]) == pytest.approx(0.4, abs=1e-6) for row in fallen)
    assert all(row["local_answer"] == "true" and row["exit"] == "1" for row in fallen)
    assert any(row["local_answer"] == "false" for row in rows)  # before and after, the server answers
    assert summary.verdict == "trusted", summary.failing


def test_a_quantised_transfer_takes_a_fraction_of_the_bytes_and_hardly_changes_answers(tmp_path: FilePath) -> None:
    sent = {}
    for coding in ("float32", "int8-shuffle-deflate"):
        spinn, rows, summary = halfway(tmp_path / coding, f"planning.options.spinn.coding='{coding}'")
        assert summary.verdict == "trusted", summary.failing
        assert spinn.agreement >= 0.95
        sent[coding] = {row["input"]: int(row["access_bytes"]) for row in rows if row["local_answer"] == "false"}
    assert sent["float32"].keys() == sent["int8-shuffle-deflate"].keys()  # the device's exits see the same tensors
    assert len(sent["float32"]) > 5
    assert max(sent["int8-shuffle-deflate"].values()) < 0.3 * min(sent["float32"].values())


# -- DDNN ----------------------------------------------------------------------------------------------------------------------


def tensor_bytes(row: dict[str, str], messages: list[tuple[int, Payload]]) -> int:
    """Access bytes of a row without what prefix and header of its messages take."""
    fields = [{"request": 100, "epoch": 1, "vertex": v, "device": "d1"} for v, _ in messages]
    coded = [{"codec": {"name": "sign-bits"}} if len(p.shape) == 1 else {} for _, p in messages]
    return int(row["access_bytes"]) - sum(
        header_bytes(Message("tensor", {**one, **more}, (p,))) for one, more, (_, p) in zip(fields, coded, messages, strict=True)
    )


def test_ddnn_sends_what_the_published_formula_says(tmp_path: FilePath) -> None:
    summary, rows = went(scenario("ddnn", "planning.planners=['ddnn']", "requests.count=80"), tmp_path / "run")
    assert (summary.verdict, summary.failing) == ("trusted", [])
    ddnn = of(summary, "ddnn")
    assert 0.5 < ddnn.local_share < 1.0
    assert ddnn.accuracy >= 0.85
    assert ddnn.agreement >= 0.85
    plan = report.load(tmp_path / "run").plans["plan"][0]
    graph = load_model(ModelSpec("digits-views")).graph
    device = [v for v, tier in enumerate(plan["tiers"]) if tier == "device" and v]
    out = [v for v in device if any(plan["tiers"][s] != "device" for s in graph.successors[v])]
    scores = [(v, Payload("float32", (1, 10), 40)) for v in out if len(graph[v].output_shape) == 2]
    maps = [(v, Payload("uint8", (32,), 32)) for v in out if len(graph[v].output_shape) == 4]
    assert (len(scores), len(maps)) == (4, 4)
    total = 0
    for row in rows:
        messages = scores if row["exit"] == "0" else scores + maps
        own = tensor_bytes(row, messages)
        assert abs(own - sum(p.nbytes for _, p in messages)) <= 8 * len(messages)  # numbers of requests take 1 to 3 bytes
        total += sum(p.nbytes for _, p in messages)
    share = sum(row["exit"] == "0" for row in rows) / len(rows)
    assert total / len(rows) / 4 == pytest.approx(traffic_bytes(10, share, 4 * 64))
    assert traffic_bytes(3, 0.6082, 1024) == pytest.approx(62, abs=0.2)  # the paper's own point: T = 0.8, 62 B
    assert traffic_bytes(3, 0.0, 1024) == pytest.approx(140)


def test_ddnn_answers_without_a_device_whose_link_is_dead(tmp_path: FilePath) -> None:
    known = scenario(
        "ddnn",
        "planning.planners=['ddnn']",
        "requests.count=40",
        "requests.deadline='5 s'",
        f"links.access-d3.trace='{outage(tmp_path, 0.5, 900.0, '250e3')}'",
    )
    summary, rows = went(known, tmp_path / "run")
    ddnn = of(summary, "ddnn")
    assert ddnn.failed == 0
    without = [row for row in rows if row["absent_devices"] == "1"]
    assert len(without) > 25
    assert all(row["absent_devices"] == "0" for row in rows if float(row["submitted_s"]) < 0.4)
    right = sum(row["label_correct"] == "true" for row in without) / len(without)
    assert right >= 0.7
    assert all(0.2 < float(row["latency_s"]) < 0.6 for row in without)  # the aggregator's patience is 200 ms


@pytest.mark.parametrize("variant", ["devices=3&local=mean&edge=max", "devices=6&features=float&local=concat"])
@pytest.mark.slow
def test_every_aggregation_and_float_features_run(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    """Trained for a moment only, and kept apart from what users have in their cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(train, "EPOCHS", {"digits-views": 4})
    devices = variant[len("devices=")]
    names = f"model.names=['digits-views?{variant}']"
    known = scenario("ddnn", names, f"topology.devices={devices}", "planning.planners=['ddnn']", "requests.count=40")
    summary, _ = went(known, tmp_path / "run")
    assert (summary.verdict, summary.failing) == ("trusted", [])
    assert of(summary, "ddnn").accuracy >= 0.5
    plan = report.load(tmp_path / "run").plans["plan"][0]
    assert plan["coding"] == ("float32" if "float" in variant else "sign-bits")
    assert len({host for _, host in plan["placed"]}) == int(devices) - 1


# -- real networks -------------------------------------------------------------------------------------------------------------


@pytest.mark.emulation
@pytest.mark.parametrize("name", ["exits", "ddnn"])
def test_the_lossy_systems_run_over_mininet_and_decide_as_in_sim(tmp_path: FilePath, name: str) -> None:
    planners = "['spinn', 'edgent']" if name == "exits" else "['ddnn']"
    asked = (
        f"planning.planners={planners}",
        "requests.count=8",
        "planning.replan='never'",
        "planning.knowledge='true'",
        "links.access.delay='0 s'",
        "links.backbone.delay='0 s'",
        "planning.options.deadline_ms=0" if name == "ddnn" else "planning.options.deadline_ms=1000",
    )
    real, emulated = went(scenario(name, *asked), tmp_path / "mininet", "mininet")
    _, simulated = went(scenario(name, *asked), tmp_path / "sim")
    assert all(pair.failed == 0 for pair in real.pairs)
    keys = ("planner", "input", "exit", "access_bytes", "backbone_bytes", "agrees", "label", "label_correct")
    assert [[row[key] for key in keys] for row in emulated] == [[row[key] for key in keys] for row in simulated]


def test_probabilities_do_not_overflow() -> None:
    assert probabilities(np.array([1000.0, 0.0], dtype=np.float32)) == pytest.approx([1.0, 0.0])
