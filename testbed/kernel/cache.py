"""The built kernels of this user: one folder for each version and configuration.

    $XDG_CACHE_HOME or ~/.cache /d3-testbed/kernel/<version>-<config hash>/
        linux         the program
        config        the full configuration that it was built with
        facts.json    version, config_hash, source, seconds it took, compiler
        build.log     what `make` said

A folder appears in one step, when it is complete. Building is left to `testbed.kernel.build`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FRAGMENT = Path(__file__).with_name("fragment.config")
CLOCK = Path(__file__).with_name("clock.h")
"""What the build changes of the kernel's clock; no file of the source is touched."""
_HASH_DIGITS = 12


@dataclass(frozen=True)
class Kernel:
    """A built kernel."""

    folder: Path

    @property
    def program(self) -> Path:
        """The executable."""
        return self.folder / "linux"

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of its making; empty where the file is gone."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "facts.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    @property
    def version(self) -> str:
        """Version of the source."""
        return self.folder.name.rpartition("-")[0]

    @property
    def config_hash(self) -> str:
        """Digest of configuration fragment and clock."""
        return self.folder.name.rpartition("-")[2]


def root() -> Path:
    """Where kernels are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "d3-testbed" / "kernel"


def config_hash() -> str:
    """Digest of the options that this version of the testbed asks for, and of its clock; comments do not count."""
    asked = [*sorted(options()), *(line for line in CLOCK.read_text(encoding="utf-8").splitlines() if line.startswith("#"))]
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()[:_HASH_DIGITS]


def options() -> list[str]:
    """Lines of the fragment as they must stand in a complete configuration."""
    lines = FRAGMENT.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("CONFIG_") or re.fullmatch(r"# CONFIG_\w+ is not set", line)]


def folder(version: str) -> Path:
    """The folder of a version with today's configuration, whether it is there or not."""
    return root() / f"{version}-{config_hash()}"


def built_from(version: str) -> Kernel | None:
    """The kernel that was built from a source of that name with today's configuration, or None.

    A package may be called otherwise than what is in it: Ubuntu's 6.8.0 holds some 6.8.12.
    """
    found = [Kernel(path) for path in root().glob(f"*-{config_hash()}") if os.access(path / "linux", os.X_OK)]
    return next((kernel for kernel in found if version in (kernel.version, kernel.facts.get("source_version"))), None)


def installed() -> Kernel | None:
    """The newest kernel that was built with today's configuration, or None."""
    try:
        found = [path for path in root().glob(f"*-{config_hash()}") if os.access(path / "linux", os.X_OK)]
    except OSError:
        return None
    return Kernel(max(found, key=lambda path: _order(path.name))) if found else None


def _order(name: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", name.rpartition("-")[0])]
