"""Promises about planners' options: unknown ones are named with their nearest known, and none is swallowed."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from planner_problems import random_problem

from testbed.errors import PlannerError
from testbed.planners.base import Planner
from testbed.planners.d3 import D3
from testbed.planners.hpa import Hpa
from testbed.planners.optimal import Optimal, OptimalTiles
from testbed.planners.options import BUILT_IN, read
from testbed.planners.single import CloudOnly

PROBLEM = random_problem(5)


@pytest.mark.parametrize(
    ("planner", "options", "words"),
    [
        (Hpa(), {"siss": "off"}, "did you mean 'sis'"),
        (Hpa(), {"sis": "of"}, "did you mean 'off'"),
        (Hpa(), {"sis": True}, "not one of successor, predecessor, off"),
        (Hpa(), {"band_low": 2.0}, "not a number from 0 to 1"),
        (Hpa(), {"band_low": "20 %"}, "not a number"),
        (D3(), {"max_hosts": 2.5}, "not a whole number"),
        (D3(), {"edge_cost": "tiled"}, "did you mean 'edge_costs'"),
        (Hpa(), {"hpa": {"grids": "all"}}, "planner 'hpa' has no option 'grids'"),
        (Optimal(), {"optimal": {"sis": "off"}}, "planner 'optimal' has no option 'sis'"),
        (CloudOnly(), {"candidate": "any"}, "did you mean 'candidates'"),
        (OptimalTiles(), {"optimal-tile": {"grids": "rows"}}, "did you mean 'optimal-tiles'"),
        (Hpa(), {"hpa": "off"}, "expected a table"),
    ],
)
def test_a_wrong_option_is_an_error_that_helps(planner: Planner, options: dict[str, Any], words: str) -> None:
    with pytest.raises(PlannerError, match=words):
        planner.plan(replace(PROBLEM, options=options))


def test_options_of_other_planners_and_their_tables_are_passed_over() -> None:
    options = {"sis": "off", "grids": "rows", "hpa": {"sis": "predecessor"}, "third-party": {"anything": 1}}
    problem = replace(PROBLEM, options=options)
    assert CloudOnly().plan(problem).plan.tiers[-1] == "cloud"
    assert read(problem, "hpa")["sis"] == "predecessor"
    assert read(problem, "d3")["sis"] == "off"
    assert read(problem, "optimal-tiles")["grids"] == "rows"


def test_every_built_in_planner_is_registered_under_its_name_and_keeps_the_contract() -> None:
    with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
        points = tomllib.load(file)["project"]["entry-points"]["testbed.planners"]
    assert set(BUILT_IN) <= set(points)
    for name in BUILT_IN:
        planner: Planner = EntryPoint(name, points[name], "testbed.planners").load()()
        assert planner.name == name
        if name == "ddnn":  # it is for networks with an exit at each border, and says so
            with pytest.raises(PlannerError, match=r"an exit at each border|3 views, but the site only 1 devices"):
                planner.plan(PROBLEM)
            continue
        decision = planner.plan(PROBLEM)
        decision.plan.check(PROBLEM.graph)
        assert decision.plan.planner == name
