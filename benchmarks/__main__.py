"""`make bench [ONLY=name,name]`: run every benchmark of this folder and print one table each.

A benchmark is a module with `TITLE`, and `run() -> list[dict]` whose rows share their keys.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import benchmarks


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A rich table of rows that share their keys."""
    result = Table(title=title, title_justify="left")
    for key in rows[0] if rows else ():
        result.add_column(key, justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        result.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    return result


def main() -> int:
    """Run the benchmarks named on the command line (all by default); write build/benchmarks.json."""
    wanted = set(sys.argv[1:])
    known = [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_")]
    if unknown := wanted - set(known):
        print(f"unknown benchmark: {', '.join(sorted(unknown))}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    results: dict[str, Any] = {}
    failed = 0
    for name in known:
        if wanted and name not in wanted:
            continue
        module = importlib.import_module(f"benchmarks.{name}")
        started = time.perf_counter()
        try:
            rows = module.run()
        except Exception as error:  # one broken benchmark must not hide the others
            console.print(f"[red]{name}: {error!r}[/red]")
            failed += 1
            continue
        console.print(table(f"{module.TITLE}  ({name}, {time.perf_counter() - started:.0f} s)", rows))
        results[name] = rows
    out = Path("build/benchmarks.json")
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
