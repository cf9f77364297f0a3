"""Files of the host that a guest finds as memory: one after the other in a device of user-mode Linux.

Booting with them is `testbed.kernel.guest`'s business.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from testbed.errors import BackendError

_PAGE = 4096

MAPPER = "/dev/mmapper"
"""Memory of the host in the guest: no page of it is faulted in, copied, or counted against the guest's own memory."""

MAPPER_BYTES = (1 << 31) - 4 * _PAGE
"""What it can hold: the kernel counts its bytes in an int (arch/um/include/shared/mem_user.h). Larger files can be mapped from
the host's file system; they are then read into the guest's own memory, as far as they are used."""


def mappable(files: Sequence[Path]) -> list[Path]:
    """Those of the files, in order, that fit into `MAPPER` together: as many as can be, smaller ones first."""
    chosen: list[Path] = []
    for file in sorted(files, key=lambda file: file.stat().st_size):
        if offsets([*chosen, file], end=True)[-1] <= MAPPER_BYTES:
            chosen.append(file)
    return [file for file in files if file in chosen]


def offsets(files: Sequence[Path], end: bool = False) -> list[int]:
    """Where each of a job's mapped files begins in `MAPPER`, and with `end` where the last one ends."""
    found = [0]
    for file in files:
        found.append(found[-1] + -(-file.stat().st_size // _PAGE) * _PAGE)
    return found if end else found[:-1]


def shared(files: Sequence[Path]) -> int:
    """A file without a name, and so without remains, that holds these one after the other."""
    *places, end = offsets(files, end=True)
    if end > MAPPER_BYTES:
        raise BackendError(f"files of {end >> 20} MiB are to be mapped; the kernel can map {MAPPER_BYTES >> 20} MiB")
    descriptor = os.memfd_create("d3-vkernel")
    for file, place in zip(files, places, strict=True):
        with file.open("rb") as source:
            os.lseek(descriptor, place, os.SEEK_SET)
            while os.sendfile(descriptor, source.fileno(), None, 1 << 30):
                pass
    os.ftruncate(descriptor, end + 2 * _PAGE)  # the kernel forgets the last page of such a region
    return descriptor
