"""What a guest of the time-travel kernel is booted with: its job, the command line, the environment, where its memory lives.

How it is watched once it runs is `testbed.kernel.guest`'s business; what it does first with its job, `testbed.kernel.inside`'s.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.errors import BackendError
from testbed.kernel import inside
from testbed.kernel.cache import Kernel

MEMORY_MIB = 4096
"""Memory of a guest. The host gives what is touched, not more."""

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "268435456"}
"""Page faults are what is slow in the guest: glibc shall keep memory that torch has given back."""

ENVIRONMENT = {
    **ALLOCATOR,
    "PYTHONMALLOC": "malloc",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""One thread each: a thread that spins while it waits would wait for ever, because time does not move while something runs.
Python takes its memory from the same heap as torch, which can be had in one piece (see `testbed.backends.vkernel_heap`). A set is
gone through in the same order in every run."""

_INHERITED = ("HOME", "PATH", "LANG", "LC_ALL", "XDG_CACHE_HOME", "USER", "LOGNAME")


@dataclass(frozen=True)
class Job:
    """What to run: "module:function", called with a function that sends events (name, **fields), and these arguments.

    Arguments and result are plain JSON. `writable`: folders of the host that the guest may write to, at the same place.
    `mapped`: files whose contents the guest finds, one after the other, in /dev/mmapper (see `testbed.kernel.mapper`).
    """

    call: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    writable: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    memory_mib: int = MEMORY_MIB
    mapped: Sequence[Path] = ()


def specification(job: Job, spool: Path) -> dict[str, Any]:
    """What the guest's first process is told of its job, as plain JSON."""
    return {
        "spool": str(spool),
        "writable": [str(Path(folder).resolve()) for folder in job.writable],
        "environment": {**_inherited(), **job.environment, "TMPDIR": "/dev/shm", "PYTHONDONTWRITEBYTECODE": "1"},
        "folder": os.getcwd(),
        "path": _search_path(),
        "call": job.call,
        "arguments": dict(job.arguments),
    }


def command_line(kernel: Kernel, spool: Path, memory_mib: int, shared: int | None = None) -> list[str]:
    """The command that boots a kernel with the job whose specification is in the spool folder; `shared` becomes `MAPPER`."""
    here = Path(inside.__file__).resolve()
    for path in (sys.executable, str(here), str(spool)):
        if '"' in path or len(path) > 300:
            raise BackendError(f"the kernel's command line cannot hold this path: {path}")
    return [
        str(kernel.program),
        f"mem={memory_mib}M",
        "time-travel=inf-cpu",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        "con=null",
        "con0=null,fd:1",
        "quiet",
        "panic=-1",
        f"uml_dir={spool}/",
        *(() if shared is None else (f"iomem=mmapper,/proc/self/fd/{shared}",)),
        *(f"{name}={value}" for name, value in ENVIRONMENT.items()),
        f"init={sys.executable}",
        "--",
        "-P",
        "-s",
        "-B",
        str(here),
        str(spool / "spec.json"),
    ]


def memory_folder(memory_mib: int) -> str:
    """Where the guest's memory lives: /dev/shm where it has room, otherwise the folder for temporary files."""
    for folder in ("/dev/shm", tempfile.gettempdir()):
        with suppress(OSError):
            if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > memory_mib << 19:  # half of it will be touched
                return folder
    return tempfile.gettempdir()


def _inherited() -> dict[str, str]:
    found = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    found["PATH"] = os.pathsep.join(dict.fromkeys([*found.get("PATH", "/usr/bin:/bin").split(os.pathsep), "/usr/sbin", "/sbin"]))
    return found


def _search_path() -> list[str]:
    """This process's module path, absolute; the packages of this interpreter come from it too."""
    root = str(Path(__file__).resolve().parents[2])
    found = [str(Path(entry).resolve()) for entry in sys.path] + [sysconfig.get_paths()["purelib"], root]
    return list(dict.fromkeys(found))
