"""Folders through which a guest and its host side speak: made for a run, gone with it, and swept by the next if it was killed.

A folder belongs to somebody as long as a process holds a lock on it; the kernel lets go of the lock when that process ends,
however that comes about. What lies in the folder is described in `testbed.kernel.inside`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "d3-vkernel-"
_UNLOCKED_YET = ".d3-vkernel-"
_ABANDONED_S = 3600.0
"""A folder is locked and gets its final name a moment after it was made; after this long without it it is nobody's."""


@contextmanager
def spool() -> Iterator[Path]:
    """A folder of this process, absolute, removed at the end."""
    root = Path(tempfile.gettempdir()).resolve()
    sweep(root)
    made = Path(tempfile.mkdtemp(prefix=_UNLOCKED_YET, dir=root))
    lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = made.rename(root / (PREFIX + made.name.removeprefix(_UNLOCKED_YET)))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def sweep(root: Path) -> list[Path]:
    """Remove this user's folders that no process holds any more; those that were removed. Others' are not touched."""
    removed = []
    for folder in (*root.glob(f"{PREFIX}*"), *root.glob(f"{_UNLOCKED_YET}*")):
        with suppress(OSError):  # somebody else was faster
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.fstat(descriptor)
                young = folder.name.startswith(_UNLOCKED_YET) and time.time() - found.st_mtime < _ABANDONED_S
                if found.st_uid != os.geteuid() or young:
                    continue
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                removed.append(folder)
            finally:
                os.close(descriptor)
    return removed
