"""`testbed kernel`: build the time-travel kernel that the `vkernel` backend boots, and look whether it works."""

from __future__ import annotations

from types import TracebackType
from typing import Annotated, Any, Self

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from testbed.backends import vkernel_check as check
from testbed.cli.app import app
from testbed.cli.console import FAILED, OK, err, note, out, print_json, verb
from testbed.cli.options import Json
from testbed.errors import BackendError
from testbed.kernel import build as building
from testbed.kernel import cache, source

kernels = typer.Typer(no_args_is_help=True, help="The kernel in virtual time that the vkernel backend boots.")
app.add_typer(kernels, name="kernel")

SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source", metavar="DIR|TARBALL|PACKAGE", help="The kernel's source. Default: the distribution's package of it."
    ),
]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Parallel jobs. Default: one for each CPU.")]
Nice = Annotated[int, typer.Option("--nice", min=0, max=19, help="Niceness of the build.")]
Rebuild = Annotated[bool, typer.Option("--rebuild", help="Build again where it is built already.")]


@verb(kernels, "build")
def build(
    wanted: SourceOption = None, jobs: Jobs = None, niceness: Nice = 0, rebuild: Rebuild = False, as_json: Json = False
) -> int:
    """Build the kernel, once for each user, version and configuration; needs no privileges where the source package is there."""
    found = cache.installed()
    if found is None or rebuild or wanted is not None:
        if problems := building.missing_tools():
            raise BackendError("\n".join(problems))
        text = source.find(wanted, note)
        note(f"source: {text.path} ({text.version})")
        with _Bar() as bar:
            found, fresh = building.build(text, bar, jobs=jobs, niceness=niceness, rebuild=rebuild)
        note(f"built in {found.facts['build_s']:.0f} s; log: {found.folder / 'build.log'}" if fresh else "it is built already")
    else:
        note("it is built already (--rebuild builds it again)")
    return _show(found, as_json)


@verb(kernels, "info")
def info(as_json: Json = False) -> int:
    """Boot the kernel and check what is needed of it: netem, HTB, bridges, veth, and a clock that jumps."""
    found = cache.installed()
    if found is None:
        raise BackendError(f"there is no kernel in {cache.root()} with today's configuration: testbed kernel build")
    return _show(found, as_json)


def _show(found: cache.Kernel, as_json: bool) -> int:
    facts = check.verify(found)
    if as_json:
        print_json(facts)
    else:
        out.print(_table(facts))
        for problem in facts["problems"]:
            err.print(problem, style="red", markup=False)
    return FAILED if facts["problems"] else OK


def _table(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("kernel", f"Linux {facts['version']}, configuration {facts['config_hash']}")
    table.add_row("program", facts["path"])
    table.add_row("works", ", ".join(facts["works"]) or "nothing")
    table.add_row("TCP", ", ".join(facts["congestion_control"]))
    table.add_row("time travel", f"a sleep of {facts['sleep_virtual_s']:.3f} s takes {facts['sleep_wall_s']:.2f} s")
    table.add_row("boot and check", f"{facts['check_s']:.1f} s")
    return table


class _Bar:
    """Progress of a build: a bar on a terminal, a line for each stage elsewhere."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TimeElapsedColumn())
        self._bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal, expand=True)
        self._task: TaskID | None = None
        self._stage = ""

    def __enter__(self) -> Self:
        self._bar.start()
        self._task = self._bar.add_task("kernel", total=None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        assert self._task is not None
        self._bar.update(self._task, description=stage, completed=done, total=total or None)
        if stage != self._stage and not err.is_terminal:
            note(f"{stage} ...")
        self._stage = stage
