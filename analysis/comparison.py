"""D3's comparison (`topologies/paper.toml`): five DNNs over four backbones and two kinds of edge, by every system, in `sim`.

One request at a time on a steady network that all systems know, sizes only: a system is judged by its plan. Backbones: 4G and
Wi-Fi uplinks as DADS measured them (INFOCOM 2019; 5.85 and 18.88 Mbit/s), a 5G uplink (median of a walk with a Verizon phone,
SIGCOMM 2021: 62 Mbit/s) and a fibre of 300 Mbit/s. Delays, and the rates back, are ours. Left out: systems with early exits,
whose networks are others, and IONN, which ends as Neurosurgeon once its weights are uploaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

import pandas as pd

from analysis import experiments
from testbed import registry
from testbed.orchestrator.world import prepare
from testbed.report.forecast import forecasts
from testbed.scenario.load import load

BACKBONES: Mapping[str, tuple[str, str, str]] = {
    "4G": ("5.85 Mbit/s", "13.76 Mbit/s", "25 ms"),
    "Wi-Fi": ("18.88 Mbit/s", "54.97 Mbit/s", "5 ms"),
    "5G": ("62 Mbit/s", "200 Mbit/s", "10 ms"),
    "fibre": ("300 Mbit/s", "300 Mbit/s", "3 ms"),
}
"""Rate up, rate down, one-way delay."""

EDGES = {"desktop": ("desktop-6core", "rtx-2080-ti"), "jetson": ("jetson-tx2", "tesla-t4")}
"""Profiles of edge and cloud: those of D3's testbed, and an edge that is worth relieving."""

TIERS = ("device-only", "edge-only", "cloud-only")
SPLITS = ("neurosurgeon", "dads", "qdmp", "dina")
TILERS = ("modnn", "deepthings", "aofl", "coedge")
BOUNDS = ("optimal", "optimal-tiles")


def planners() -> tuple[str, ...]:
    """Those that are registered, D3 first."""
    known = registry.planners()
    return ("d3", "hpa", *(name for name in (*TIERS, *SPLITS, *TILERS, *BOUNDS) if name in known))


def settings(edge: str, backbone: str, names: Iterable[str]) -> list[str]:
    """What makes `topologies/paper.toml` one of the cases, as after `--set`."""
    profiles, link = EDGES[edge], BACKBONES[backbone]
    return [
        "compute.tensors=sizes",
        f"hosts.edge.profile={profiles[0]}",
        f"hosts.cloud.profile={profiles[1]}",
        f"links.backbone.rate={link[0]}",
        f"links.backbone.rate_down={link[1]}",
        f"links.backbone.delay={link[2]}",
        f"planning.planners={json.dumps(list(names))}",
    ]


def ratio(other: float, own: float) -> float:
    """Other over own; 1 where both are nothing."""
    return 1.0 if other == own else other / own if own else math.inf


def cases(*overrides: str) -> pd.DataFrame:
    """Every system on every case: a row each, with `edge`, `backbone`, `model`, `planner`, `latency_s` (mean) and
    `backbone_bytes` (mean per inference). Raises ValueError for a run that is not to be trusted."""
    found = []
    for edge in EDGES:
        for backbone in BACKBONES:
            results = experiments.run("paper", *settings(edge, backbone, planners()), *overrides)
            if results.manifest["verdict"] != "trusted":
                raise ValueError(f"the run of {edge}, {backbone} is {results.manifest['verdict']}")
            means = results.answered.groupby(["model", "planner"], sort=False)[["latency_s", "backbone_bytes"]].mean()
            found.append(means.reset_index().assign(edge=edge, backbone=backbone))
    columns = ["edge", "backbone", "model", "planner", "latency_s", "backbone_bytes"]
    return pd.concat(found, ignore_index=True)[columns]


def against(cells: pd.DataFrame) -> pd.DataFrame:
    """D3's gains: a row for each case and other system, with `time` and `bytes`, the other's figure over D3's (`bytes` is
    infinite where D3 alone sends nothing)."""
    case = ["edge", "backbone", "model"]
    own = cells[cells["planner"] == "d3"].drop(columns="planner")
    both = cells[cells["planner"] != "d3"].merge(own, on=case, suffixes=("", "_d3"), sort=False)
    size = [ratio(*pair) for pair in zip(both["backbone_bytes"], both["backbone_bytes_d3"], strict=True)]
    return both[[*case, "planner"]].assign(time=both["latency_s"] / both["latency_s_d3"], bytes=size)


def claims(gains: pd.DataFrame) -> pd.DataFrame:
    """A row for each other system: how D3 does against it, and in how many cases the paper's figures are reached."""
    by = gains.groupby("planner", sort=False)
    return pd.DataFrame(
        {
            "time: worst": by["time"].min(),
            "median": by["time"].median(),
            "best": by["time"].max(),
            "D3 slower": by["time"].agg(lambda times: int((times < 0.995).sum())),
            "3.4 reached": by["time"].agg(lambda times: int((times >= 3.4).sum())),
            "bytes: 3.68 reached": by["bytes"].agg(lambda sizes: int((sizes >= 3.68).sum())),
            "as many": by["bytes"].agg(lambda sizes: int(sizes.between(0.995, 1.005).sum())),
            "D3 sends more": by["bytes"].agg(lambda sizes: int((sizes < 0.995).sum())),
            "cases": by.size(),
        }
    ).round(2)


def plans(edge: str, backbone: str, model: str, names: Iterable[str] = ("d3", "optimal", "optimal-tiles")) -> pd.DataFrame:
    """What some planners decide in one case: vertices by tier, predicted latency, and the tensors that cross, in words."""
    world = prepare(load("paper", [*settings(edge, backbone, names), f"model.names={model}"]))
    rows = []
    for item in forecasts(world):
        tiers = {tier: len(item.vertices(tier)) for tier in ("device", "edge", "cloud")}
        crossings = ", ".join(
            f"{each.name} ({each.payload_bytes / 1e3:.0f} kB) {each.source} to {each.target}" for each in item.crossings()
        )
        rows.append({"planner": item.planner, **tiers, "ms": item.prediction.latency_s * 1e3, "crosses": crossings or "nothing"})
    return pd.DataFrame(rows).set_index("planner").round(1)
