"""Builds the time-travel kernel: unpack, configure from `fragment.config`, make, and put it into the user's cache in one step.

Needs no privileges beyond those that installing missing packages takes (`testbed.kernel.source`). Booting it is
`testbed.kernel.guest`'s business.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from testbed.errors import BackendError, RunError
from testbed.kernel import cache
from testbed.kernel.cache import Kernel
from testbed.kernel.source import Source, tree_version

TOOLS = {"gcc": "gcc", "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "tar": "tar", "xz": "xz-utils"}
"""Programs that a build needs, and the Debian/Ubuntu package of each."""

UNPACKERS = {".bz2": {"bzip2": "bzip2"}, ".gz": {"gzip": "gzip"}, ".zst": {"zstd": "zstd"}}
"""What `tar` needs beside these for archives of some names (Ubuntu's is a .tar.bz2)."""

STEPS = 1270
"""Lines that `make` prints for 6.12 with this configuration, for the progress bar."""

NEEDED_BYTES = 2 << 30
"""Free disk space while building; all but 10 MB of it is given back."""

_UNUSED = ("*/drivers/gpu/drm/*/*.[ch]", "*/drivers/net/ethernet/*/*.[ch]", "*/sound/*.[ch]", "*/drivers/media/*.[ch]")
"""Half of the archive, and no part of a kernel without hardware. (Kconfig files and Makefiles are all needed.)"""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much is done."""


def missing_tools(source: Source | None = None) -> list[str]:
    """Sentences about what is missing for a build here (of this source, where it is known); empty if nothing is."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        return [f"the time-travel kernel runs on x86-64 Linux only; this is {platform.system()} on {platform.machine()}"]
    tools = TOOLS
    if source is not None and not source.is_tree:
        tools = {**TOOLS, **UNPACKERS.get(source.path.suffix, {})}
    wanting = [name for name in tools if shutil.which(name) is None]
    lines = []
    if wanting:
        packages = " ".join(tools[name] for name in wanting)
        lines.append(f"to build the kernel, {', '.join(wanting)} must be installed: sudo apt-get install {packages}")
    if not Path("/usr/include/stdio.h").exists() and "gcc" not in wanting:
        lines.append("to build the kernel, the C library's headers must be installed: sudo apt-get install libc6-dev")
    return lines


def build(
    source: Source, progress: Progress, *, jobs: int | None = None, niceness: int = 0, rebuild: bool = False
) -> tuple[Kernel, bool]:
    """Build a kernel, or find it built; the kernel, and whether it was built now.

    `jobs`: parallel jobs, by default one for each CPU. Raises BackendError for missing tools or space, RunError (with the end
    of the log) where the build fails. Whatever happens, no half-built kernel is left in the cache.
    """
    root = cache.root()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(
            f"the cache {root} cannot be made: {error.strerror}; set XDG_CACHE_HOME to a folder of yours"
        ) from error
    with _locked(root, progress):
        if not rebuild and (built := cache.built_from(source.version)) is not None:
            return built, False
        if problems := missing_tools(source):
            raise BackendError("\n".join(problems))
        if (free := shutil.disk_usage(root).free) < NEEDED_BYTES:
            raise BackendError(f"building needs {NEEDED_BYTES >> 20} MiB in {root}; {free >> 20} MiB are free")
        scratch = Path(tempfile.mkdtemp(prefix=".build-", dir=root))
        try:
            work = _Build(source, scratch, progress, jobs or os.cpu_count() or 1, niceness)
            result = work.run()
            target = cache.folder(work.version)
            _put(result, target)
            return Kernel(target), True
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _locked(root: Path, progress: Progress) -> Iterator[None]:
    """One build at a time for each user; the next one then finds it done."""
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build", 0, 0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _put(result: Path, target: Path) -> None:
    """Move a complete folder to its place; one that is there already moves away first."""
    if target.exists():
        old = target.with_name(f".old-{os.getpid()}-{target.name}")
        target.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    result.rename(target)


class _Build:
    def __init__(self, source: Source, scratch: Path, progress: Progress, jobs: int, niceness: int) -> None:
        self.version = source.version
        self._source, self._scratch, self._progress, self._jobs = source, scratch, progress, jobs
        self._nice = ["nice", "-n", str(niceness)] if niceness else []
        self._log = scratch / "build.log"
        self._start = time.monotonic()

    def run(self) -> Path:
        """The folder with the finished program, still in the scratch folder."""
        tree = self._tree()
        self.version = tree_version(tree)
        self._configure(tree)
        self._compile(tree)
        result = self._scratch / "result"
        result.mkdir()
        objects = self._objects(tree)
        for name, new in (("linux", "linux"), (".config", "config")):
            shutil.copy2(objects / name, result / new)
        shutil.copy2(self._log, result / "build.log")
        compiler = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=False).stdout.splitlines()
        facts = {
            "version": self.version,
            "config_hash": cache.config_hash(),
            "source": str(self._source.path),
            "source_version": self._source.version,
            "build_s": round(time.monotonic() - self._start, 1),
            "jobs": self._jobs,
            "compiler": compiler[0] if compiler else "unknown",
        }
        (result / "facts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return result

    def _tree(self) -> Path:
        if self._source.is_tree:
            return self._source.path
        self._progress("unpacking", 0, 0)
        place = self._scratch / "source"
        place.mkdir()
        command = ["tar", "-xf", str(self._source.path), "-C", str(place), *(f"--exclude={pattern}" for pattern in _UNUSED)]
        self._call(command, "the archive cannot be unpacked")
        entries = [entry for entry in place.iterdir() if entry.is_dir()]
        if len(entries) != 1 or not (entries[0] / "arch" / "um").is_dir():
            raise RunError(f"{self._source.path}: this archive holds no kernel source (there is no arch/um in it)")
        return entries[0]

    def _objects(self, tree: Path) -> Path:
        """Where the build writes: a user's tree is left as it is."""
        if not self._source.is_tree:
            return tree
        place = self._scratch / "objects"
        place.mkdir(exist_ok=True)
        return place

    def _make(self, tree: Path, *targets: str) -> list[str]:
        objects = self._objects(tree)
        out = [] if objects == tree else [f"O={objects}"]
        return [*self._nice, "make", "-C", str(tree), "ARCH=um", *out, *targets]

    def _configure(self, tree: Path) -> None:
        self._progress("configuring", 0, 0)
        self._call(self._make(tree, "tinyconfig"), "the kernel cannot be configured")
        config = self._objects(tree) / ".config"
        with config.open("a", encoding="utf-8") as file:
            file.write("\n".join(cache.options()) + "\n")
        self._call(self._make(tree, "olddefconfig"), "the kernel cannot be configured")
        lines = set(config.read_text(encoding="utf-8").splitlines())
        # An option that this version does not know is not set either.
        known = {line.split("=")[0].removeprefix("# ").removesuffix(" is not set") for line in lines}
        lost = [o for o in cache.options() if o not in lines and not (o.startswith("#") and o.split()[1] not in known)]
        if lost:
            raise RunError(f"kernel {self.version} does not take these options of {cache.FRAGMENT.name}: {', '.join(lost)}")

    def _compile(self, tree: Path) -> None:
        command = self._make(tree, f"-j{self._jobs}", f"CFLAGS_time.o=-include {cache.CLOCK}", "linux")
        with (
            self._log.open("ab") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process,
        ):
            assert process.stdout is not None
            try:
                for done, line in enumerate(process.stdout, 1):
                    log.write(line)
                    self._progress("compiling", min(done, STEPS - 1), STEPS)
                status = process.wait()
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                raise
        if status != 0:
            raise RunError(f"the kernel does not compile (make: {status}):\n{self._tail()}")
        self._progress("compiling", STEPS, STEPS)

    def _call(self, command: Sequence[str], complaint: str) -> None:
        with self._log.open("ab") as log:
            status = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
            ).returncode
        if status != 0:
            raise RunError(f"{complaint} ({command[0]}: {status}):\n{self._tail()}")

    def _tail(self) -> str:
        """The end of the log, kept also where the user can look at all of it."""
        kept = cache.root() / "failed-build.log"
        shutil.copy2(self._log, kept)
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        wrong = [line for line in lines if "error" in line.lower() or "***" in line][-5:]
        return "\n".join(wrong or lines[-10:]) + f"\nthe whole log: {kept}"
