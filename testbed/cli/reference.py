"""The reference of all commands, docs/cli.md, made from the commands themselves: usage, arguments, options, defaults.

`python -m testbed.cli.reference` writes it to standard output; a test keeps the committed file up to date. It reads what the
functions declare (`Annotated[..., typer.Option(...)]`), which is the same in all releases of Typer.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import typer
from typer.models import ArgumentInfo, OptionInfo

import testbed.cli  # noqa: F401  all verbs register themselves
from testbed.cli.app import app

HEAD = """\
# Commands

<!-- Made from the commands: python -m testbed.cli.reference > docs/cli.md -->

Every command has `--help`, and takes `--debug`, which shows where an error came from. Results go to standard output; notes,
progress and errors to standard error.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | bad input: the message says what, where, and what to do next |
| 3 | done, and the verdict is `rejected`, or a check found more than it allows |
| 130 | interrupted; what was finished is kept |

"""

_LETTERS = {int: "N", float: "X", str: "TEXT"}


@dataclass(frozen=True)
class Parameter:
    """One argument or option of a command."""

    name: str
    info: ArgumentInfo | OptionInfo
    kind: Any
    default: Any
    required: bool

    @property
    def words(self) -> str:
        """How it is written: the option's names and what follows, or the argument's own name."""
        kind = next((k for k in (typing.get_args(self.kind) or (self.kind,)) if k is not type(None)), str)
        word = self.info.metavar or _LETTERS.get(kind, "PATH" if getattr(kind, "__name__", "") == "Path" else "TEXT")
        if isinstance(self.info, ArgumentInfo):
            return self.info.metavar or self.name.upper()
        first = [self.info.default] if isinstance(self.info.default, str) else []  # where Typer keeps it beside Annotated
        names = ", ".join((*first, *(self.info.param_decls or ())))
        return names if kind is bool else f"{names} {word.replace('|', '/')}"


def markdown() -> str:
    """The text of docs/cli.md."""
    found = sorted(_commands(app, "testbed"), key=lambda one: one[0])
    rows = ((name, _words(action).partition(". ")[0].removesuffix(".")) for name, action in found)
    index = "".join(f"| [`{name}`](#{name.replace(' ', '-')}) | {first} |\n" for name, first in rows)
    return f"{HEAD}| command | what it does |\n|---|---|\n{index}" + "".join(_section(name, action) for name, action in found)


def _commands(group: typer.Typer, name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for command in group.registered_commands:
        if command.callback is not None:
            yield f"{name} {command.name}", command.callback
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from _commands(inner.typer_instance, f"{name} {inner.name}")


def _section(name: str, action: Callable[..., Any]) -> str:
    found = list(_parameters(action))
    arguments = [p for p in found if isinstance(p.info, ArgumentInfo)]
    options = [p for p in found if isinstance(p.info, OptionInfo)]
    usage = " ".join([name, *(p.words for p in arguments), *(["[OPTIONS]"] if options else [])])
    rows = "".join(f"| `{p.words}` | {_escaped(p.info.help or '')} | {_default(p)} |\n" for p in (*arguments, *options))
    table = f"\n| | meaning | default |\n|---|---|---|\n{rows}" if rows else ""
    return f"\n## {name}\n\n```text\n{usage}\n```\n\n{_words(action)}\n{table}"


def _parameters(action: Callable[..., Any]) -> Iterator[Parameter]:
    hints = typing.get_type_hints(inspect.unwrap(action), include_extras=True)
    for name, parameter in inspect.signature(action).parameters.items():
        kind, *extras = typing.get_args(hints[name])
        info = next(item for item in extras if isinstance(item, ArgumentInfo | OptionInfo))
        required = parameter.default is inspect.Parameter.empty
        yield Parameter(name, info, kind, None if required else parameter.default, required)


def _default(parameter: Parameter) -> str:
    if parameter.required:
        return "**needed**"
    return "–" if parameter.default in (None, False, "") else f"`{parameter.default}`"


def _words(action: Callable[..., Any]) -> str:
    return _escaped(inspect.getdoc(action) or "")


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("[dim]", "").replace("[/dim]", "")


if __name__ == "__main__":
    sys.stdout.write(markdown())
