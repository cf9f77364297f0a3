"""Processes of this machine: whose they are, whether they are gone, and patience for either."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait for something that must come about, on a machine with other work too."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"it did not come about within {limit_s:g} s"
        time.sleep(0.05)


def descendants(pid: int) -> set[int]:
    """A process and all that it and its children have started and that are there."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            children.setdefault(int(entry.read_text().rsplit(") ", 1)[1].split()[1]), []).append(int(entry.parent.name))
    found: set[int] = set()
    new = {pid}
    while new:
        found |= new
        new = {child for parent in new for child in children.get(parent, ())} - found
    return found


def gone(pid: int) -> bool:
    """True when a process is no more, or only a zombie that its parent has not asked for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].startswith("Z")
    except OSError:
        return True
