"""`testbed hosts`: certificates and an inventory for real machines, and whether they are ready for a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from testbed.cli.app import app
from testbed.cli.console import BAD_INPUT, OK, err, note, out, print_json, verb
from testbed.cli.options import Json, Models, Overrides, scenario_of
from testbed.errors import InputError
from testbed.hosts import certificates, inventory, skeleton
from testbed.hosts.check import Findings
from testbed.hosts.check import check as examine
from testbed.report.units import rate

hosts = typer.Typer(no_args_is_help=True, help="Real machines: certificates, inventories, and checks before a run.")
app.add_typer(hosts, name="hosts")

HostNames = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="NAME=ADDRESS",
        help="A machine: e1=192.168.7.11, more addresses behind commas; lab4:edge=... where the name does not tell the tier.",
    ),
]
ServedModels = Annotated[
    list[str] | None, typer.Option("--model", metavar="NAME", help="A model for the hosts' services to load; repeatable.")
]
Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="Days that certificates are valid.")]
Renew = Annotated[bool, typer.Option("--renew", help="New certificates for these hosts, by the authority in the folder.")]


@verb(hosts, "init")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder; with --renew, one that was made before.")],
    named: HostNames = None,
    models: ServedModels = None,
    days: Days = certificates.DAYS,
    renew: Renew = False,
) -> None:
    """Make a private authority, a certificate for every host, a secret, and an inventory to be completed."""
    parsed = [skeleton.parse(text) for text in named or ()]
    if not parsed:
        raise InputError("--host is missing: name every machine, as in --host d1=192.168.7.10 --host e1=192.168.7.11")
    for place, host in enumerate(parsed):
        if any(host.name == other.name for other in parsed[:place]):
            raise InputError(f"--host {host.name}: given twice")
    by_name = {host.name: host.addresses for host in parsed}
    if renew:
        made = certificates.renew(folder, by_name, days)
        note("the former ones are kept beside them; hand the new ones to their hosts and restart the services there")
    else:
        made = certificates.init(folder, by_name, days)
        texts = {"inventory.toml": skeleton.inventory(parsed)}
        texts |= {f"{host.name}.env": skeleton.environment(host, models or ()) for host in parsed}
        made += [certificates.write(folder / name, text.encode()) for name, text in texts.items()]
    for path in made:
        out.print(str(path), soft_wrap=True)


@verb(hosts, "check")
def check(
    machines: Annotated[Path, typer.Argument(metavar="INVENTORY", help="An inventory file.")],
    scenario: Annotated[str | None, typer.Argument(metavar="[SCENARIO]", help="What is to be run there.")] = None,
    models: Models = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> int:
    """Reach every machine: versions, models, clocks, round trips and rates. Exit code 2 if a run could not begin."""
    if scenario is None and (models or overrides):
        raise InputError("--model and --set belong to a scenario; name one behind the inventory")
    found = examine(inventory.read(machines), None if scenario is None else scenario_of(scenario, overrides, models=models))
    if as_json:
        print_json(found.to_dict())
    else:
        out.print(_machines(found))
        if found.ways:
            out.print(_ways(found))
        for text in found.notes:
            note(text)
        for text in found.problems:
            err.print(text, style="red", markup=False, soft_wrap=True)
        if not found.problems:
            out.print("ready")
    return BAD_INPUT if found.problems else OK


def _machines(found: Findings) -> Table:
    table = Table(title="Machines", title_justify="left", title_style="bold")
    for heading in ("host", "tier", "d3-testbed", "torch", "computes on", "models", "clock ahead by", "give or take"):
        table.add_column(heading, overflow="fold")
    for host, about in found.about.items():
        clock = found.clocks[host].measured[-1] if found.clocks.get(host) and found.clocks[host].measured else None
        models = [
            f"{name} {facts['structure'][:6]}/{(facts['weights'] or '-')[:6]}" for name, facts in about.get("models", {}).items()
        ]
        table.add_row(
            host,
            str(about.get("tier", "?")),
            str(about.get("d3node", "?")),
            str(about.get("torch") or "-"),
            f"{about.get('machine', '?')} {about.get('device', '')}",
            "\n".join(models) or "none",
            "-" if clock is None else f"{clock.offset_s:.6f} s",
            "-" if clock is None else f"{clock.uncertainty_s * 1e3:.3f} ms",
        )
    return table


def _ways(found: Findings) -> Table:
    table = Table(title="Ways between them", title_justify="left", title_style="bold")
    for heading in ("from", "to", "round trip", "rate"):
        table.add_column(heading, justify="left" if heading in ("from", "to") else "right")
    for way in found.ways:
        table.add_row(way.source, way.target, f"{way.round_trip_s * 1e3:.3f} ms", rate(way.rate_bps))
    return table
