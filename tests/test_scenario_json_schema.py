"""The JSON Schema that editors read takes what the loader takes, and marks what the loader refuses."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from testbed.cli import main
from testbed.errors import ScenarioError
from testbed.scenario.json_schema import json_schema
from testbed.scenario.load import build, shipped

ROOT = Path(__file__).resolve().parent.parent
SMALLEST: dict[str, Any] = {
    "model": {"names": "alexnet"},
    "links": {"backbone": {"rate": "10 Mbit/s", "delay": "20 ms", "loss": "1 %"}},
}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_scenarios_are_valid(validator, name):
    validator.validate(tomllib.loads(shipped()[name].read_text()))


def test_the_smallest_scenario_needs_neither_a_name_nor_a_list(validator):
    validator.validate(SMALLEST)
    build(copy.deepcopy(SMALLEST), file=Path("smallest.toml"))


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("links.backbone", "rate", 10),
        ("links.backbone", "rate", "10 Mbps"),
        ("links.backbone", "rate", "10"),
        ("links.backbone", "delay", "20 Mbit/s"),
        ("links.backbone", "loss", -0.1),
        ("links.backbone", "trace_direction", "sideways"),
        ("links.backbone", "rats", "10 Mbit/s"),
        ("model", "names", []),
        ("model", "directory", "."),
        ("requests", "count", 0),
        ("requests", "count", "ten"),
        ("requests", "think_time", 1),
        ("planning", "planners", 3),
        ("planning", "replan", "sometimes"),
        ("hosts.edge", "memory", "2 Gbit/s"),
        ("", "planing", {}),
    ],
)
def test_what_the_loader_refuses_is_marked(validator, table, key, value):
    wrong = copy.deepcopy(SMALLEST)
    place = wrong
    for part in filter(None, table.split(".")):
        place = place.setdefault(part, {})
    place[key] = value
    assert not validator.is_valid(wrong)
    with pytest.raises(ScenarioError):
        build(wrong, file=Path("wrong.toml"))


@pytest.mark.parametrize(
    ("key", "values"), [("loss", ["5 %", "0.05", 0.05, "5%"]), ("delay", ["20 ms", "20ms", "1e-3 s", "0.5 min"])]
)
def test_every_way_to_write_a_quantity_is_valid(validator, key, values):
    for value in values:
        right = copy.deepcopy(SMALLEST)
        right["links"]["backbone"][key] = value
        validator.validate(right)
        build(right, file=Path("right.toml"))


def test_defaults_are_written_as_a_file_would(validator):
    """A quantity's default has its unit, and every default would pass where it stands."""
    for name, table in json_schema()["$defs"].items():
        for key, value in table["properties"].items():
            assert value.get("description"), f"{name}.{key} says nothing"
            if "default" in value:
                Draft202012Validator(value).validate(value["default"])


def test_the_committed_schema_is_up_to_date(capsys):
    assert main(["scenario", "schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == json_schema()
    assert (ROOT / "docs" / "scenario.schema.json").read_text() == printed, (
        "run: testbed scenario schema > docs/scenario.schema.json"
    )
