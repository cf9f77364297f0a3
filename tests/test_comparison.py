"""D3's comparison as frames: the same cases and the same claims as the benchmark's table."""

from __future__ import annotations

import math
from collections.abc import Iterator

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from analysis import comparison, figures
from analysis.comparison import against, claims


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def cells() -> pd.DataFrame:
    rows = [
        ("4G", "d3", 0.1, 100e3),
        ("4G", "cloud-only", 0.4, 600e3),
        ("4G", "dads", 0.09, 50e3),
        ("fibre", "d3", 0.2, 0.0),
        ("fibre", "cloud-only", 0.2, 600e3),
        ("fibre", "dads", 0.4, 0.0),
    ]
    frame = pd.DataFrame(rows, columns=["backbone", "planner", "latency_s", "backbone_bytes"])
    return frame.assign(edge="desktop", model="m")


def test_gains_are_the_others_figures_over_d3s_and_claims_count_them() -> None:
    gains = against(cells()).set_index(["planner", "backbone"])
    assert gains["time"].to_dict() == pytest.approx(
        {("cloud-only", "4G"): 4.0, ("dads", "4G"): 0.9, ("cloud-only", "fibre"): 1.0, ("dads", "fibre"): 2.0}
    )
    assert gains["bytes"].to_dict() == {
        ("cloud-only", "4G"): 6.0,
        ("dads", "4G"): 0.5,
        ("cloud-only", "fibre"): math.inf,
        ("dads", "fibre"): 1.0,
    }
    table = claims(against(cells()))
    assert table.loc["cloud-only", ["3.4 reached", "bytes: 3.68 reached", "cases"]].tolist() == [1, 2, 2]
    assert table.loc["dads", ["D3 slower", "as many", "D3 sends more", "time: worst"]].tolist() == [1, 1, 1, 0.9]


def test_every_gain_is_a_dot_and_those_without_end_are_at_the_margin() -> None:
    time, size = figures.gain_dots(against(cells())).axes
    drawn = {(x, round(y)) for line in time.lines[:2] for x, y in zip(*line.get_data(), strict=True)}
    assert {(round(x, 6), y) for x, y in drawn} == {(4.0, 0), (0.9, 1), (1.0, 0), (2.0, 1)}
    assert max(x for line in size.lines[:2] for x in line.get_xdata()) == pytest.approx(6.0 * 1.6)


def test_plans_of_a_case_say_what_crosses() -> None:
    found = comparison.plans("desktop", "fibre", "alexnet", ("d3", "cloud-only", "optimal"))
    assert found.loc["cloud-only", ["device", "edge"]].tolist() == [0, 0]
    assert found.loc["cloud-only", "crosses"].startswith("input (602 kB) device to edge")
    assert found.loc["optimal", "ms"] < found.loc["d3", "ms"]
    assert comparison.plans("desktop", "4G", "resnet18", ("edge-only",)).loc["edge-only", "edge"] == 31
