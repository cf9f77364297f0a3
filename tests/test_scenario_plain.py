"""A scenario survives the way to another process: every shipped one, with what it leaves out still left out."""

from __future__ import annotations

import json

import pytest

from testbed import registry
from testbed.scenario.links import hosts_of, links_of
from testbed.scenario.load import load, shipped
from testbed.scenario.plain import from_plain, to_plain


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_scenario_comes_back_equal(name: str):
    scenario = load(name, ["run.wall_limit=5 min"])
    back = from_plain(json.loads(json.dumps(to_plain(scenario))))
    assert back == scenario
    assert back.model_dump() == scenario.model_dump()
    assert back.model_fields_set == scenario.model_fields_set
    for role, table in scenario.links.items():
        assert back.links[role].model_fields_set == table.model_fields_set
    layout = registry.layout(scenario.topology)
    assert links_of(back, layout) == links_of(scenario, layout)
    assert hosts_of(back, layout) == hosts_of(scenario, layout)
