"""Options that several verbs share, and the scenario they add up to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testbed.errors import InputError
from testbed.names import IN_FILE
from testbed.scenario.load import load
from testbed.scenario.schema import Scenario

Json = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]
ScenarioName = Annotated[
    str,
    typer.Argument(
        metavar="SCENARIO", help='A scenario file (.toml), a shipped one such as "quickstart", or a run folder to repeat.'
    ),
]
Planners = Annotated[
    list[str] | None,
    typer.Option(
        "--planner", metavar="NAME", help="A planner, or one of your own as file.py:NAME; repeatable. Replaces the scenario's."
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Zoo name, module:factory, file.py:factory or .pt2; repeatable. Replaces the scenario's.",
    ),
]
Traces = Annotated[
    list[str] | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Let the backbone follow this trace instead, as recorded (scale 1); repeatable, one run each.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of arrivals and images (model.seed is that of random weights).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help='Override a key of the scenario, e.g. links.backbone.delay="0 ms"; repeatable.'
    ),
]


def scenario_of(
    name: str,
    overrides: list[str] | None = None,
    planners: list[str] | None = None,
    models: list[str] | None = None,
    seed: int | None = None,
) -> Scenario:
    """The scenario a command line asks for. Raises ScenarioError."""
    given = list(overrides or ())
    if planners:
        given.append(f"planning.planners={_strings([_located(planner) for planner in planners])}")
    if models:
        given.append(f"model.names={_strings([_located(model) for model in models])}")
    if seed is not None:
        given.append(f"seed={seed}")
    return load(name, given)


def with_traces(
    name: str,
    traces: list[str] | None,
    overrides: list[str] | None = None,
    planners: list[str] | None = None,
    models: list[str] | None = None,
    seed: int | None = None,
) -> dict[str, Scenario]:
    """The scenarios a command line asks for, by the name of the backbone's trace; "" as it is, where no trace was given."""
    if not traces:
        return {"": scenario_of(name, overrides, planners, models, seed)}
    found = {}
    for trace in traces:
        where = str(Path(trace).resolve()) if Path(trace).exists() else trace
        given = [f"links.backbone.trace={where}", "links.backbone.trace_scale=1", *(overrides or ())]
        file, _, query = trace.partition("?")
        label = "-".join(filter(None, (Path(file).name.replace(":", "-"), query.replace("/", "-"))))
        if label in found:
            raise InputError(f"--trace {trace}: two traces would be called {label!r}; rename one file")
        found[label] = scenario_of(name, given, planners, models, seed)
    return found


def _strings(values: list[str]) -> str:
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in dict.fromkeys(values))
    return "[" + ", ".join(f'"{value}"' for value in quoted) + "]"


def _located(name: str) -> str:
    """A `.pt2` or `.py:` file given on the command line is relative to the current folder, not to the scenario's."""
    return str(Path(name).resolve()) if name.endswith(".pt2") or IN_FILE in name else name
