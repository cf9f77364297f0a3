"""The comparison's table says what its cells say, and its cells are runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.gains import Cell, claims, lines, measure, ratio


def cell(planner: str, latency_s: float, size: float) -> Cell:
    return Cell("desktop", "4G", "m", planner, latency_s, size)


CELLS = [
    cell("d3", 0.1, 100e3),
    cell("cloud-only", 0.4, 600e3),
    cell("dads", 0.09, 50e3),
    cell("aofl", 0.12, 0.0),
    cell("modnn", 0.3, 0.0),
    cell("optimal", 0.08, 100e3),
]


def test_a_gain_is_the_others_figure_over_d3s() -> None:
    time, size = lines(CELLS)
    assert (time["of"], time["D3"], size["of"], size["D3"]) == ("time", "100.0 ms", "bytes", "100 kB")
    assert (time["cloud"], time["dads"], time["optimal"], time["modnn"]) == ("4.00", "0.90", "0.80", "3.00")
    assert (size["cloud"], size["dads"], size["aofl"]) == ("6.00", "0.50", "0.00")


def test_the_claims_are_counted() -> None:
    cloud, dads, *_, optimal = claims([*CELLS, *(replace(cell, backbone="5G", latency_s=0.2) for cell in CELLS)])
    assert cloud["D3 against"] == "cloud-only"
    assert (cloud["time, worst"], cloud["median"], cloud["best"]) == pytest.approx((1.0, 2.5, 4.0))
    assert (cloud["3.4 reached"], cloud["bytes: 3.68 reached"], cloud["cases"]) == (1, 2, 2)
    assert (dads["slower than it"], dads["more than it"]) == (1, 2)
    assert (optimal["as many"], optimal["more than it"]) == (2, 0)


def test_ratios_of_nothing() -> None:
    assert (ratio(0.0, 0.0), ratio(5.0, 0.0), ratio(0.0, 5.0)) == (1.0, math.inf, 0.0)


@pytest.mark.slow
def test_a_cell_is_a_trusted_run() -> None:
    found = measure("jetson", "Wi-Fi", ("d3", "edge-only", "cloud-only"), "model.names=alexnet", "requests.count=2")
    by_name = {cell.planner: cell for cell in found}
    assert (
        by_name["cloud-only"].backbone_bytes > 602_112 > by_name["d3"].backbone_bytes > by_name["edge-only"].backbone_bytes == 0
    )
    assert by_name["d3"].latency_s < by_name["cloud-only"].latency_s
