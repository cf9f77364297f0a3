"""A file that one process at a time may hold, so that no two write to the same folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import IO

from testbed.errors import InputError


def locked(path: Path, refusal: str) -> IO[str]:
    """The file (made where it is missing), held until it is closed or its process has ended, however. Raises InputError with the
    text of `refusal` where another process holds it, OSError where it cannot be opened."""
    file = path.open("a", encoding="utf-8")
    with suppress(ImportError):  # no such locks on Windows: there nobody guards against two writers
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise InputError(refusal) from None
    return file
