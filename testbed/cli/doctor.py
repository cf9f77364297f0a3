"""`testbed doctor`: what can run on this machine, and what to install for the rest."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from testbed import machine
from testbed.cli.app import app
from testbed.cli.console import out, print_json, verb
from testbed.cli.options import Json


@verb(app, "doctor")
def doctor(as_json: Json = False) -> None:
    """What this machine can do: tools, kernel features, backends, and what to install for the rest."""
    facts = machine.facts()
    if as_json:
        print_json(facts)
        return
    out.print(_table(facts))
    out.print(_backends(facts["backends"]))
    wants = ("What root is needed for", facts["root_for"])
    for title, lines in (wants, ("To add what is missing", facts["advice"]), ("Ways to netem", facts["ways_to_netem"])):
        if lines:
            out.print(f"[bold]{title}[/bold]")
            for line in lines:
                out.print(f"  {line}", markup=False, soft_wrap=True)


def _table(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    memory = facts["memory_bytes"]
    table.add_row("system", facts["system"])
    table.add_row("Python", facts["python"])
    size = f", {memory / 2**30:.1f} GiB of memory" if memory else ""
    table.add_row("CPUs", f"{facts['cpus']}{size}; OMP_NUM_THREADS {facts['threads'] or 'not set'}")
    table.add_row("packages", _marks({f"{name} {version or ''}".strip(): version for name, version in facts["packages"].items()}))
    table.add_row("programs", _marks(facts["tools"]))
    kernel = {name: facts[key] for name, key in _KERNEL.items()}
    table.add_row("kernel", _marks(kernel))
    table.add_row("control groups", facts["cgroup"] or "none")
    table.add_row("TCP", ", ".join(facts["congestion_control"]) or "unknown")
    return table


_KERNEL = {"root": "root", "network namespaces": "network_namespaces", "veth": "veth", "bridge": "bridge", "HTB": "htb"}
_KERNEL["netem"] = "netem"


def _marks(found: dict[str, Any]) -> str:
    return "  ".join(f"[green]✓[/green] {name}" if value else f"[red]✗[/red] {name}" for name, value in found.items())


def _backends(backends: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="Backends", title_justify="left", title_style="bold")
    table.add_column("backend")
    table.add_column("runs here")
    table.add_column("why not", overflow="fold")
    for name, support in backends.items():
        table.add_row(name, "[green]yes[/green]" if support["ok"] else "[red]no[/red]", "\n".join(support["reasons"]))
    return table
