"""Where the command line writes: results to standard output, progress and errors to standard error, never a traceback.

One way to print JSON, one way to print an error, and the mapping from errors to exit codes.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from d3node.errors import ModelError, NodeError, PlanError
from testbed.errors import InputError, TestbedError

OK, FAILED, BAD_INPUT, REJECTED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes."""

WIDE = 120
"""Columns of tables where standard output is no terminal and COLUMNS does not say otherwise."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def kept(headings: Sequence[str], rows: Iterable[Sequence[str]], spare: Sequence[str]) -> list[int]:
    """Indexes of the columns of a plain table (two spaces between columns) that fit; those of `spare` go first to last."""
    widths = [max(map(len, column)) for column in zip([max(h.split("\n"), key=len) for h in headings], *rows, strict=True)]
    left = list(range(len(headings)))
    for heading in spare:
        if sum(widths[i] + 2 for i in left) - 2 <= out.width:
            break
        left.remove(headings.index(heading))
    return left


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def note(text: str) -> None:
    """A line of explanation on standard error."""
    err.print(f"[dim]{escape(text)}[/dim]", soft_wrap=True)


def print_error(error: BaseException) -> None:
    """One clear panel, or "error:" lines where standard error is no terminal."""
    text = str(error) or type(error).__name__
    if err.is_terminal:
        err.print(Panel(Text(text), title=_title(error), title_align="left", border_style="red", expand=False))
    else:
        sys.stderr.write("".join(f"error: {line}\n" for line in text.splitlines()))


def _title(error: BaseException) -> str:
    if isinstance(error, InputError | ModelError):
        return "cannot use this input"
    return "cannot run this here" if exit_code(error) == BAD_INPUT else "failed"


def exit_code(error: BaseException) -> int:
    """Exit code for an error: a model or plan that cannot be used is bad input too."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, ModelError | PlanError):
        return BAD_INPUT
    return error.exit_code if isinstance(error, TestbedError) else FAILED


def verb(app: typer.Typer, name: str, **options: Any) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Register a command; it returns its exit code (None is 0), and its errors are printed, not raised."""

    def register(action: Callable[..., int | None]) -> Callable[..., None]:
        @functools.wraps(action)
        def command(*args: Any, **kwargs: Any) -> None:
            raise typer.Exit(_guarded(functools.partial(action, *args, **kwargs)))

        app.command(name, **options)(command)
        return command

    return register


class Tracebacks:
    """Whether tracebacks are wanted (`--debug`)."""

    wanted = False


def _guarded(action: Callable[[], int | None]) -> int:
    try:
        return action() or OK
    except KeyboardInterrupt:
        err.print("[yellow]interrupted[/yellow]")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except typer.Exit:
        raise
    except (TestbedError, NodeError, OSError) as error:
        if Tracebacks.wanted:
            traceback.print_exc()
        print_error(error)
        return exit_code(error)
    except Exception as error:
        if Tracebacks.wanted:
            traceback.print_exc()
        print_error(error)
        err.print(f"{type(error).__name__}: this is a bug in the testbed; the same command with --debug shows where.")
        return FAILED
