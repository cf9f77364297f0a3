"""Where results come from: versions of everything that could change them, the platform, and the testbed's git state."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

PACKAGES = ("d3-testbed", "torch", "torchvision", "timm", "numpy", "ortools", "scikit-learn", "mininet", "pyroute2", "scapy")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that matter; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = _version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _version(name: str) -> str:
    """As `importlib.metadata.version`, which parses the package's whole description for it. Raises PackageNotFoundError."""
    package = distribution(name)
    text = package.read_text("METADATA") or package.read_text("PKG-INFO") or ""
    line = re.search(r"^Version: *(\S+)", text, re.MULTILINE)
    return package.version if line is None else line[1]


def machine() -> dict[str, Any]:
    """The machine that carried the run."""
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "implementation": sys.implementation.name,
        "environment": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the testbed's own source tree and whether it has changes; None where it is not in a git tree."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changed)}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
