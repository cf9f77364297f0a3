"""The comparison's table says what its cells say, and its cells are runs."""

from __future__ import annotations

import math

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
    (line,) = lines(CELLS)
    assert (line["D3"], line["D3 backbone"]) == ("100.0 ms", "100 kB")
    assert (line["cloud-only"], line["dads"], line["optimal"]) == ("4.00x", "0.90x", "0.80x")
    assert line["best tiler"] == "1.20x aofl"
    assert (line["bytes cloud-only"], line["bytes dads"]) == ("6.00x", "0.50x")


def test_the_claims_are_counted() -> None:
    found = claims(CELLS)
    assert found[0] == (
        "cloud-only: in time 4.00 to 4.00x, at least 3.4x in 1 of 1; on the backbone at least 3.68x less in 1, more than it in 0"
    )
    assert found[-1] == "D3 over optimal: 1.250 to 1.250"


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
