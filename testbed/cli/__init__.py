"""The `testbed` command: one file per verb; the only package that prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer.main

from testbed.cli import doctor as doctor
from testbed.cli import hosts as hosts
from testbed.cli import kernel as kernel
from testbed.cli import models as models
from testbed.cli import plan as plan
from testbed.cli import profile as profile
from testbed.cli import report as report
from testbed.cli import run as run
from testbed.cli import scenario as scenario
from testbed.cli import sweep as sweep
from testbed.cli import traces as traces
from testbed.cli import verify as verify
from testbed.cli import verify_backends as verify_backends
from testbed.cli import verify_links as verify_links
from testbed.cli import verify_repeat as verify_repeat
from testbed.cli.app import app
from testbed.cli.console import WIDE, Tracebacks, out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    Tracebacks.wanted = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = WIDE
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's "package.module:factory" lies where the command is given; last, to shadow nothing
    try:
        typer.main.get_command(app).main(args=words, prog_name="testbed")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
