"""`testbed scenario`: the shipped scenarios, a file looked at before it is run, and the schema that editors read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from testbed import registry
from testbed.cli.app import app
from testbed.cli.console import note, out, print_json, verb
from testbed.cli.options import Json, Models, Overrides, Planners, ScenarioName, scenario_of
from testbed.errors import ScenarioError
from testbed.names import suggestion
from testbed.orchestrator.world import World, prepare
from testbed.scenario.json_schema import json_schema
from testbed.scenario.links import idle_words
from testbed.scenario.load import load, shipped

scenarios = typer.Typer(help="Scenario files: those that are shipped, a check, the schema for editors.", no_args_is_help=True)
app.add_typer(scenarios, name="scenario")

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it to this new file.")]


@verb(scenarios, "list")
def list_scenarios(as_json: Json = False) -> None:
    """The shipped scenarios, by the names that all commands know them by."""
    found = {name: load(file) for name, file in sorted(shipped().items())}
    if as_json:
        print_json([{"name": name, "description": each.description, "models": each.model.names} for name, each in found.items()])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scenario", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    table.add_column("models", overflow="fold")
    for name, each in found.items():
        table.add_row(name, each.description, ", ".join(each.model.names))
    out.print(table)
    out.print("To start a file of your own: testbed scenario show NAME --out mine.toml", style="dim")


@verb(scenarios, "show")
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped scenario.")], target: Out = None) -> None:
    """The text of a shipped scenario: a start for one of your own."""
    known = shipped()
    if name not in known:
        raise ScenarioError(f"no shipped scenario {name!r}{suggestion(name, known)}")
    _write(known[name].read_text(encoding="utf-8"), target)


@verb(scenarios, "check")
def check(
    scenario: ScenarioName, planners: Planners = None, models: Models = None, overrides: Overrides = None, as_json: Json = False
) -> None:
    """Read a scenario and all that it names (models, traces, profiles, ...), and say where it could run. Runs nothing."""
    wanted = scenario_of(scenario, overrides, planners, models)
    world = prepare(wanted)
    support = {name: registry.backend(name).support(wanted) for name in registry.backends()}
    notes = idle_words(world.links)
    if as_json:
        backends = {name: {"ok": each.ok, "reasons": list(each.reasons)} for name, each in support.items()}
        print_json({**_facts(world), "backends": backends, "notes": notes})
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in _facts(world).items():
        table.add_row(key, ", ".join(value) if isinstance(value, list) else str(value))
    for name, each in support.items():
        table.add_row(f"on {name}", "can run here" if each.ok else "cannot run here: " + "; ".join(each.reasons))
    out.print(table)
    for text in notes:
        note(text)


@verb(scenarios, "schema")
def schema(target: Out = None) -> None:
    """The JSON Schema of scenario files. An editor that knows TOML schemas completes keys and marks mistakes with it."""
    _write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", target)


def _facts(world: World) -> dict[str, Any]:
    scenario, layout = world.scenario, world.layout
    requests = scenario.requests
    traced = [f"{link.name}: {link.trace.name}" for link in world.links.values() if link.trace is not None]
    return {
        "scenario": scenario.name,
        "models": [f"{facts.label} ({len(facts.graph) - 1} vertices)" for facts in world.models.values()],
        "planners": list(world.planners),
        "topology": f"{layout.name}, {len(layout.hosts)} hosts, {len(layout.links)} links",
        "hosts": [host.name for host in layout.hosts],
        "links": list(layout.link_names),
        "traces": traced or "none",
        "requests": f"{requests.count} and {requests.warmup} to warm up, for each device, model and planner",
    }


def _write(text: str, target: Path | None) -> None:
    if target is None:
        out.file.write(text)
        return
    if target.exists():
        raise ScenarioError(f"--out {target}: exists already; give a new file")
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"--out {target}: cannot be written: {error.strerror}") from error
