"""A small per-user cache of layer graphs, so that planning and sizes-only runs need not import torch.

One JSON file per model under $XDG_CACHE_HOME/d3-testbed/graphs (or ~/.cache). The name of the file is a digest of everything that
the graph depends on; a stale entry is therefore never found, and deleting the folder is always safe. Whoever
puts an entry in takes those out that were used longest ago, beyond `MOST_BYTES` in all.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path

from d3node.errors import ModelError
from d3node.graph import LayerGraph
from d3node.zoo import kind_of

LIBRARIES = ("torch", "torchvision", "timm")
CODE = ("graph", "instructions", "operators", "reading", "capture", "zoo", "branchy")
"""Modules of this package whose text decides what a graph looks like."""

MOST_BYTES = 64 * 1024 * 1024
"""What all entries may take together: some 300 graphs of the size of Inception-v4."""
LEFT_OVER_S = 86_400.0
"""Age from which a lock or a half-written entry is what a killed process has left."""

_HELD: dict[str, LayerGraph] = {}


def hold(source: str, graph: LayerGraph) -> None:
    """Answer for a model from memory in this process from now on: another process has looked, and nobody else need."""
    _HELD[source] = graph


def folder() -> Path:
    """Where entries are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "d3-testbed" / "graphs"


def key(source: str) -> str:
    """Digest of a model's name, the versions of the libraries, the capturing code, and the files the model comes from."""
    kind = kind_of(source)
    facts: dict[str, object] = {"source": source, "python": sys.version_info[:2], "versions": [_version(n) for n in LIBRARIES]}
    facts["code"] = _code()
    if kind == "file":
        facts["source"] = str(Path(source).resolve())
        facts["files"] = _stat([Path(source)])
    elif kind == "factory":
        facts["files"] = _stat(_module_files(source.partition("?")[0].rpartition(":")[0]))
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def get(source: str) -> LayerGraph | None:
    """The cached graph of a model, or None; an unreadable entry counts as none. Raises ModelError for an unknown name."""
    if source in _HELD:
        return _HELD[source]
    entry = folder() / f"{key(source)}.json"
    try:
        written_ns = entry.stat().st_mtime_ns
        graph = _read(entry, written_ns)
    except (OSError, UnicodeDecodeError, ModelError):
        return None
    with suppress(OSError):
        os.utime(entry, ns=(time.time_ns(), written_ns))  # used just now, which many file systems do not note by themselves
    return graph


@lru_cache(maxsize=32)
def _read(entry: Path, _written_ns: int) -> LayerGraph:
    """An entry's graph; graphs are frozen, so that one will do for all who ask in this process."""
    return LayerGraph.from_json(entry.read_text())


def put(source: str, graph: LayerGraph) -> None:
    """Keep a graph; written to a temporary file first and renamed, so that readers never see half.

    A home that cannot be written to is no error.
    """
    with suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder(), suffix=".part")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(graph.to_json())
            os.chmod(temporary, 0o644)
            os.replace(temporary, folder() / f"{key(source)}.json")
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        prune()


def prune() -> None:
    """Take out what processes that were killed have left, and the entries that were used longest ago until the rest fits into
    `MOST_BYTES`; the one used last stays. Safe beside other processes: who finds an entry gone captures the model anew."""
    used: list[tuple[int, int, Path]] = []
    for path in folder().iterdir():
        with suppress(OSError):
            status = path.stat()
            if path.suffix == ".json":
                used.append((max(status.st_atime_ns, status.st_mtime_ns), status.st_size, path))
            elif path.suffix in (".part", ".lock") and time.time() - status.st_mtime > LEFT_OVER_S:
                path.unlink(missing_ok=True)
    left = MOST_BYTES
    for place, (_, size, path) in enumerate(sorted(used, reverse=True)):
        left -= size
        if left < 0 and place:
            with suppress(OSError):
                path.unlink(missing_ok=True)


@contextmanager
def alone(source: str) -> Iterator[None]:
    """Wait until no other process of this user is in here for the same model: capturing one takes long, and once is enough.

    Look again with `get` then. Where no file can be written or locked, nobody waits.
    """
    path = folder() / f"{key(source)}.lock"
    with ExitStack() as held:
        with suppress(OSError, ImportError):
            import fcntl  # not on every system

            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(path.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
            held.callback(path.unlink, missing_ok=True)  # before the file is closed; who waits for it will find an entry
        yield


@cache
def _code() -> list[str]:
    return [hashlib.sha256((Path(__file__).parent / f"{name}.py").read_bytes()).hexdigest() for name in CODE]


@cache
def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _module_files(name: str) -> list[Path]:
    """Python files of the top-level package, or of the folder, that a factory lives in (it may build on its neighbours)."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise ModelError(f"model file {name!r} does not exist")
        return sorted(Path(name).resolve().parent.glob("*.py"))
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise ModelError(f"model {name!r}: there is no module {name.partition('.')[0]!r} to import")
    if spec.submodule_search_locations:
        return sorted(file for place in spec.submodule_search_locations for file in Path(place).rglob("*.py"))
    return [Path(spec.origin)] if spec.origin else []


def _stat(files: list[Path]) -> list[tuple[str, int, int]]:
    found = []
    for file in files:
        with suppress(OSError):
            status = file.stat()
            found.append((str(file), status.st_size, status.st_mtime_ns))
    return found
