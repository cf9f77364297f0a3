"""`testbed hosts`: certificates and an inventory for real machines, and whether they are ready for a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testbed.cli.app import app
from testbed.cli.console import note, out, verb
from testbed.errors import InputError
from testbed.hosts import certificates, skeleton

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
