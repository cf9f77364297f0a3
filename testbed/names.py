"""The nearest known name to a mistyped one, how to say so, and what a thing from a file is called.

What the names stand for is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

IN_FILE = ".py:"
"""Marks what is given as a file and a name in it: "path.py:NAME"."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name` (case, "-" and "_" do not count), or None when nothing is near."""
    plain = {_plain(candidate): candidate for candidate in known}
    found = get_close_matches(_plain(name), plain, n=1, cutoff=0.5)
    return plain[found[0]] if found else None


def suggestion(name: str, known: Iterable[str], what: str = "known") -> str:
    """Text to put behind "unknown ... 'name'": the nearest name if there is one, and all the known ones."""
    names = sorted(known)
    close = nearest(name, names)
    hint = f'; did you mean "{close}"?' if close else ";"
    return f"{hint} {what}: {', '.join(names) if names else 'none'}"


def label(name: str) -> str:
    """What a model or planner is called in results: its name, or its file without the folder ("file.py:NAME", "file.pt2")."""
    return Path(name).name if IN_FILE in name or name.endswith(".pt2") else name


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")
