"""Where the kernel's source text comes from: the package of the distribution, an archive, or a folder.

Finding and naming it is all that happens here; unpacking and building is `testbed.kernel.build`'s.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import BackendError, InputError

PACKAGES = ("linux-source-6.12", "linux-source-6.1", "linux-source")
"""Debian's and Ubuntu's names, preferred ones first: these were tried, and 6.12 imports torch a quarter faster than 6.1."""

PLACE = Path("/usr/src")
"""Where these packages put their archive."""

_SUFFIXES = (".tar.xz", ".tar.bz2", ".tar.gz", ".tar.zst", ".tar")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Source text of a kernel: an archive or an unpacked tree. `version` as the kernel's own Makefile has it where known."""

    path: Path
    version: str

    @property
    def is_tree(self) -> bool:
        """Whether it is unpacked already."""
        return self.path.is_dir()


def find(wanted: str | None, say: Say, install: bool = True) -> Source:
    """The source a user asked for: a folder, an archive, the name of a package, or None for the first package there is.

    A package that is not installed is installed where root or passwordless sudo allow it and `install` is true.
    Raises InputError for something that is no kernel source, BackendError with the command to type where there is none.
    """
    if wanted is not None and (Path(wanted).exists() or "/" in wanted):
        return _given(Path(wanted))
    packages = PACKAGES if wanted is None else (wanted,)
    for package in packages:
        if (archive := _archive(package)) is not None:
            return archive
    known = [package for package in packages if _candidate(package)]
    if not known and install and _as_root(["apt-get", "-qq", "update"], say):
        known = [package for package in packages if _candidate(package)]
    if known and install and _as_root(["apt-get", "-qq", "install", "-y", "--no-install-recommends", known[0]], say):
        if (archive := _archive(known[0])) is not None:
            return archive
        raise BackendError(f"package {known[0]} is installed, but there is no archive of it in {PLACE}")
    raise BackendError(_advice(known, wanted))


def _advice(known: list[str], wanted: str | None) -> str:
    if known:
        return f"the kernel's source is missing: sudo apt-get install {known[0]}"
    if wanted is not None:
        return f"no package {wanted!r} is known to this machine's package manager, and no such file or folder exists"
    return (
        "the kernel's source is missing, and no package of it is known here (Debian: linux-source-6.12 or linux-source-6.1, "
        "Ubuntu: linux-source): sudo apt-get update, or give an archive of kernel.org: "
        "testbed kernel build --source linux-6.12.tar.xz"
    )


def _given(path: Path) -> Source:
    if path.is_dir():
        if not (path / "arch" / "um").is_dir():
            raise InputError(f"--source {path}: this folder is no kernel source (it has no arch/um)")
        return Source(path.resolve(), tree_version(path))
    if not path.is_file():
        raise InputError(f"--source {path}: there is no such file or folder")
    if not path.name.endswith(_SUFFIXES):
        raise InputError(f"--source {path}: expected a folder or an archive ({', '.join(_SUFFIXES)})")
    return Source(path.resolve(), _archive_version(path))


def _archive(package: str) -> Source | None:
    """The archive that an installed package has put into /usr/src.

    Debian has /usr/src/NAME.tar.xz. Ubuntu's `linux-source` holds nothing and depends on the real one (linux-source-6.8.0, say),
    which has /usr/src/NAME/NAME.tar.bz2, most often with a link to it in /usr/src.
    """
    shown = _installed(package)
    if shown is None:
        return None
    own, depends = shown
    for name in dict.fromkeys([package, *re.findall(r"linux-source-[0-9.]*[0-9]", depends)]):
        for suffix in _SUFFIXES:
            for place in (PLACE / f"{name}{suffix}", PLACE / name / f"{name}{suffix}"):
                if place.is_file():
                    real = _installed(name) if name != package else None
                    return Source(place, _plain(own if real is None else real[0]))
    return None


def _installed(package: str) -> tuple[str, str] | None:
    """Version and dependencies of a package, None if it is not installed."""
    if shutil.which("dpkg-query") is None:
        return None
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f=${db:Status-Status} ${Version} ${Depends}", package], capture_output=True, text=True, check=False
    )
    status, _, rest = shown.stdout.partition(" ")
    if shown.returncode != 0 or status != "installed":
        return None
    version, _, depends = rest.partition(" ")
    return version, depends


def _candidate(package: str) -> bool:
    if shutil.which("apt-cache") is None:
        return False
    shown = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True, check=False).stdout
    found = re.search(r"Candidate: (\S+)", shown)
    return found is not None and found.group(1) != "(none)"


def _as_root(command: list[str], say: Say) -> bool:
    """Run a command with the rights it needs; False where they are not to be had or it fails."""
    if shutil.which(command[0]) is None:
        return False
    prefix: list[str] = []
    if os.geteuid() != 0:
        if shutil.which("sudo") is None or subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
            return False
        prefix = ["sudo", "-n"]
    say(" ".join([*prefix, *command]))
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run([*prefix, *command], stdout=subprocess.DEVNULL, env=environment, check=False).returncode == 0


def tree_version(tree: Path) -> str:
    """Version of an unpacked tree, from its Makefile. Raises InputError."""
    try:
        text = (tree / "Makefile").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{tree}: its Makefile cannot be read: {error.strerror}") from error
    fields = [re.search(rf"^{name} *= *(.*)$", text, re.MULTILINE) for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    if None in fields:
        raise InputError(f"{tree}: this is no kernel source (its Makefile has no version)")
    return ".".join(found.group(1).strip() for found in fields if found is not None)


def _archive_version(path: Path) -> str:
    """From the file's name, or from the folder inside it."""
    if found := re.search(r"(\d+\.\d+(?:\.\d+)?)", path.name):
        return found.group(1)
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"--source {path}: the archive cannot be read: {error}") from error
    found = re.search(r"(\d+\.\d+(?:\.\d+)?)", first.name if first else "")
    if found is None:
        raise InputError(f"--source {path}: neither its name nor its folder says which version of the kernel it is")
    return found.group(1)


def _plain(version: str) -> str:
    """6.12.117 of 6.12.117-1~deb12u1."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return found.group(0) if found else version
