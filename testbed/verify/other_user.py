"""Repeats a run as another user of this machine, without privileges: what `sudo -u` would do, also where the testbed lies in a
home that this user may not enter.

Root starts it. In a mount namespace of its own, which nobody else sees, folders on the way to the testbed, its interpreter and
its cache that the user may not enter are replaced by ones that hold nothing but these. Then the process becomes that user, with
no group and no capability, and runs the program: `python -m testbed.verify.other_user UID FOLDER... -- COMMAND...`
"""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from d3node import graph_cache
from d3node.linux import CLONE_NEWNS, call, die_with_parent, unshare
from testbed.errors import RunError

_MS_NOSUID, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4096, 16384, 1 << 18
_NOT_RUN = (0, 3)
"""Exit statuses of a run that came to its end: trusted or degraded, and rejected."""


def run_again(first: Path, backend: str, folder: Path, uid: int) -> None:
    """Repeat the run of a folder as another user, into a folder that is made for it. Raises RunError with its last words."""
    folder.mkdir(parents=True)
    first, folder = first.resolve(), folder.resolve()
    os.chown(folder, uid, uid)
    needed = [*map(Path, sys.path), Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[2]]
    needed += [graph_cache.folder().parent, first, folder, Path.cwd()]
    reachable = [str(path.resolve()) for path in needed if path.exists()]
    command = [sys.executable, "-m", "testbed.cli", "run", str(first), "--backend", backend, "--out", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(uid), *dict.fromkeys(reachable), "--", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    for path in (folder, *folder.rglob("*")):
        os.chown(path, os.geteuid(), os.getegid())
    if done.returncode not in _NOT_RUN:
        raise RunError(f"the run as uid {uid} failed (status {done.returncode}): {done.stderr.strip()[-2000:]}")


def become(uid: int, needed: Sequence[Path]) -> None:
    """Make the needed folders reachable for a user, and turn this process into that user's. Raises OSError."""
    here = Path.cwd()
    unshare(CLONE_NEWNS)
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    closed: dict[Path, list[Path]] = {}
    for path in needed:
        for folder in reversed(path.parents):
            if not _may_enter(folder, uid):
                closed.setdefault(folder, []).append(path)
                break
    for folder, paths in closed.items():
        _replace(folder, paths)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.chdir(here)


def _may_enter(folder: Path, uid: int) -> bool:
    status = folder.stat()
    return bool(status.st_mode & (stat.S_IXUSR if status.st_uid == uid else stat.S_IXOTH))


def _replace(folder: Path, paths: Sequence[Path]) -> None:
    """Put a folder over this one (in this namespace) that holds only the paths."""
    staging = Path(tempfile.mkdtemp(dir="/dev/shm"))
    _mount("tmpfs", str(staging), "tmpfs", _MS_NOSUID, "mode=755")
    for path in sorted(set(paths)):
        target = staging / path.relative_to(folder)
        if any(parent in paths for parent in path.parents):
            continue
        target.mkdir(parents=True, exist_ok=True)
        _mount(str(path), str(target), "", _MS_BIND | _MS_REC)
    _mount(str(staging), str(folder), "", _MS_BIND | _MS_REC)
    call("umount2", str(staging).encode(), ctypes.c_int(2))
    staging.rmdir()


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())


def main(arguments: Sequence[str]) -> None:
    """Never returns where all is well: the process becomes the program."""
    split = list(arguments).index("--")
    uid, *needed = arguments[:split]
    parent = os.getppid()
    become(int(uid), [Path(path) for path in needed])
    die_with_parent()  # a change of user would have cleared it
    if os.getppid() == parent:
        command = arguments[split + 1 :]
        os.execv(command[0], list(command))


if __name__ == "__main__":
    main(sys.argv[1:])
