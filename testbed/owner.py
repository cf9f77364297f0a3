"""Under sudo, what a run leaves belongs to who asked for it, and not to root.

Which files those are is the caller's business.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def make(folder: Path) -> None:
    """Make a folder and those above it that are missing; under sudo they are the caller's. Raises OSError."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _give(path)


def give_all(folder: Path) -> None:
    """Under sudo, give a folder and everything in it to who called sudo; links are not followed."""
    if _caller() is None:
        return
    for place, _, files in os.walk(folder):
        for path in (Path(place), *(Path(place, name) for name in files)):
            _give(path)


def _give(path: Path) -> None:
    caller = _caller()
    if caller is not None:
        with suppress(OSError):  # a medium without owners
            os.chown(path, *caller, follow_symlinks=False)


def _caller() -> tuple[int, int] | None:
    """User and group of who called sudo; None for everybody else, root by itself included."""
    user, group = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not user.isdecimal() or not group.isdecimal():
        return None
    return int(user), int(group)
