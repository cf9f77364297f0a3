"""Boots the time-travel kernel with one job in it, passes on what the job says, and watches that it gets on.

The guest is an ordinary process of this user. It dies with the thread that started it, and so does everything in it. The other
end is `testbed.kernel.inside`, whose description of the spool folder holds for both.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from d3node import errors as node_errors
from d3node.errors import NodeError
from d3node.linux import die_with_parent
from testbed import errors
from testbed.errors import AgentError, BackendError, RunError, TestbedError
from testbed.kernel import inside
from testbed.kernel.cache import Kernel
from testbed.kernel.spool import spool

Fields = dict[str, Any]
Listener = Callable[[Fields], None]

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
_POLL_S = 0.02
_TAIL_BYTES = 3000
_PAGE = 4096


@dataclass(frozen=True)
class Limits:
    """When a guest counts as stuck. `wall_s`: the user's own limit. `still_s`: wall seconds in which virtual time may stand still
    without an event (computing and importing take no virtual time). `silent_virtual_s`: virtual seconds without an event."""

    wall_s: float | None = None
    still_s: float = 300.0
    silent_virtual_s: float = 36_000.0
    stop_grace_s: float = 10.0


@dataclass(frozen=True)
class Job:
    """What to run: "module:function", called with a function that sends events (name, **fields), and these arguments.

    Arguments and result are plain JSON. `writable`: folders of the host that the guest may write to, at the same place.
    `mapped`: files whose contents the guest finds, one after the other, in /dev/mmapper; `offsets` says where each begins.
    """

    call: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    writable: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    memory_mib: int = MEMORY_MIB
    mapped: Sequence[Path] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a job, and what a manifest should say of the guest."""

    result: Any
    facts: Fields


class JobError(TestbedError):
    """The job raised an error that is none of the testbed's; the text ends with its traceback."""


def run(kernel: Kernel, job: Job, listener: Listener | None = None, limits: Limits | None = None) -> Outcome:
    """Boot, run the job, switch off. `listener` gets the job's events as they arise.

    Raises the testbed's error that the job raised (JobError for any other), RunError for a guest that is stuck, runs too long
    or dies, BackendError where it cannot be booted; KeyboardInterrupt is passed on when the guest has ended.
    """
    with spool() as folder:
        return _Guest(kernel, job, folder, limits or Limits(), listener or (lambda _event: None)).run()


class _Guest:
    def __init__(self, kernel: Kernel, job: Job, spool: Path, limits: Limits, listener: Listener) -> None:
        self._kernel, self._job, self._spool, self._limits, self._listener = kernel, job, spool, limits, listener
        self._started: Fields | None = None
        self._end: Fields | None = None
        self._pending = b""
        self._virtual_s = 0.0
        self._event_virtual_s = 0.0
        self._last_event = "none"
        self._command: list[str] = []
        self._begun = self._booted = self._moved = time.monotonic()
        self._resident_kib = 0

    def run(self) -> Outcome:
        process = self._boot()
        with (self._spool / "events").open("rb") as events:
            try:
                while process.poll() is None and self._end is None:
                    time.sleep(_POLL_S)
                    self._take(events)
                    self._judge()
                    self._weigh(process.pid)
                self._take(events)
                if self._end is not None:
                    with suppress(subprocess.TimeoutExpired):  # switching off takes a moment
                        process.wait(5.0)
            except (KeyboardInterrupt, RunError):
                self._ask_to_stop(process, events)
                raise
            finally:
                _kill(process)
        if self._end is None:
            raise BackendError(f"the guest ended without a result (status {process.returncode}){self._tail()}")
        if "error" in self._end:
            raise self._error(self._end)
        return Outcome(self._end["result"], self.facts())

    def facts(self) -> Fields:
        """For manifests. `boot_s`: wall seconds until the guest's first process ran. `peak_mib`: memory of this machine that the
        guest took, `mapped_mib` of it for mapped files."""
        mapped = offsets(self._job.mapped, end=True)[-1]
        return {
            "version": self._kernel.version,
            "config_hash": self._kernel.config_hash,
            "boot_line": " ".join(self._command[1:]),
            "virtual_s": round(self._virtual_s, 6),
            "wall_s": round(time.monotonic() - self._begun, 3),
            "boot_s": round(self._booted - self._begun, 3),
            "memory_mib": self._job.memory_mib,
            "mapped_mib": mapped >> 20,
            "peak_mib": (self._resident_kib >> 10) + (mapped >> 20),
        }

    # -- starting -------------------------------------------------------------------------------------------------------------

    def _boot(self) -> subprocess.Popen[bytes]:
        for name in ("events", "clock", "output", "console"):
            (self._spool / name).touch()
        spec = {
            "spool": str(self._spool),
            "writable": [str(Path(folder).resolve()) for folder in self._job.writable],
            "environment": {**_inherited(), **self._job.environment, "TMPDIR": "/dev/shm", "PYTHONDONTWRITEBYTECODE": "1"},
            "folder": os.getcwd(),
            "path": _search_path(),
            "call": self._job.call,
            "arguments": dict(self._job.arguments),
        }
        (self._spool / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        shared = _shared(self._job.mapped) if self._job.mapped else None
        self._command = command_line(self._kernel, self._spool, self._job.memory_mib, shared)
        # What memory the guest has is an unlinked file in TMPDIR. (HOME is where user-mode Linux would look for its settings.)
        environment = {
            "TMPDIR": memory_folder(self._job.memory_mib),
            "HOME": str(self._spool),
            "PATH": os.environ.get("PATH", ""),
        }
        with (self._spool / "console").open("ab") as console:
            try:
                return subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    cwd=self._spool,
                    env=environment,
                    pass_fds=() if shared is None else (shared,),
                    start_new_session=True,  # Ctrl-C is for us; a group of its own can be ended as one
                    preexec_fn=partial(_die_with, os.getpid()),
                )
            except OSError as error:
                raise BackendError(f"the kernel {self._kernel.program} cannot be started: {error.strerror}") from error
            finally:
                if shared is not None:
                    os.close(shared)

    # -- watching -------------------------------------------------------------------------------------------------------------

    def _take(self, events: Any) -> None:
        """Read what has come since the last time."""
        clock = (self._spool / "clock").read_bytes().strip(b"\0 ")
        if clock and (now := float(clock)) > self._virtual_s:
            self._virtual_s, self._moved = now, time.monotonic()
        *lines, self._pending = (self._pending + events.read()).split(b"\n")
        for line in lines:
            fields = json.loads(line)
            self._moved = time.monotonic()
            self._virtual_s = self._event_virtual_s = max(self._virtual_s, fields["virtual_s"])
            self._last_event = fields["event"]
            if fields["event"] == "started":
                self._started, self._booted = fields, time.monotonic()
            elif fields["event"] == "end":
                self._end = fields
            else:
                self._listener(fields)

    def _weigh(self, pid: int) -> None:
        """The kernel's own process maps all of the guest's memory, and gives nothing back before it ends."""
        with suppress(OSError, ValueError):
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
            _, found, rest = status.partition("VmHWM:")
            if found:
                self._resident_kib = max(self._resident_kib, int(rest.split(maxsplit=1)[0]))

    def _judge(self) -> None:
        """Raise RunError for a guest that takes too long or does not get on."""
        limits, now = self._limits, time.monotonic()
        if self._end is not None:
            return
        if limits.wall_s is not None and now - self._begun > limits.wall_s:
            raise RunError(f"the run was stopped at its limit of {limits.wall_s:g} s of wall-clock time{self._where()}")
        if now - self._moved > limits.still_s:
            raise RunError(
                f"the guest is stuck: virtual time has stood still for {limits.still_s:g} s (something in it computes, or polls "
                f"without waiting){self._where()}{self._tail()}"
            )
        if self._virtual_s - self._event_virtual_s > limits.silent_virtual_s:
            raise RunError(
                f"the guest is stuck: nothing has happened in it for {limits.silent_virtual_s:g} s of virtual time (everybody in "
                f"it waits){self._where()}{self._tail()}"
            )

    def _ask_to_stop(self, process: subprocess.Popen[bytes], events: Any) -> None:
        """Let the job end in order, if it can do so soon; a second Ctrl-C ends the wait."""
        (self._spool / "stop").touch()
        end = time.monotonic() + self._limits.stop_grace_s
        while process.poll() is None and self._end is None and time.monotonic() < end:
            time.sleep(_POLL_S)
            self._take(events)

    def _where(self) -> str:
        return f"; virtual time {self._virtual_s:.3f} s, last event {self._last_event!r} at {self._event_virtual_s:.3f} s"

    def _tail(self) -> str:
        parts = [(name, self._last(name)) for name in ("output", "console")]
        return "".join(f"\n-- end of its {name} --\n{text}" for name, text in parts if text)

    def _last(self, name: str) -> str:
        text = (self._spool / name).read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
        return text.replace("reboot: Power down", "").strip()

    def _error(self, end: Fields) -> TestbedError | NodeError | KeyboardInterrupt:
        kind = getattr(errors, end["error"], None) or getattr(node_errors, end["error"], None)
        if isinstance(kind, type) and issubclass(kind, NodeError):
            return kind(end["text"])
        if isinstance(kind, type) and issubclass(kind, TestbedError):
            return kind(end["text"] + (self._tail() if issubclass(kind, BackendError | AgentError | RunError) else ""))
        if end["error"] == "KeyboardInterrupt":
            return KeyboardInterrupt()
        return JobError(f"{end['error']}: {end['text']}\n{end['trace']}{self._tail()}".strip())


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


def _shared(files: Sequence[Path]) -> int:
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


def _die_with(parent: int) -> None:
    die_with_parent()
    if os.getppid() != parent:  # it died before it could be watched
        os._exit(1)


def _inherited() -> dict[str, str]:
    found = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    found["PATH"] = os.pathsep.join(dict.fromkeys([*found.get("PATH", "/usr/bin:/bin").split(os.pathsep), "/usr/sbin", "/sbin"]))
    return found


def _search_path() -> list[str]:
    """This process's module path, absolute; the packages of this interpreter come from it too."""
    root = str(Path(__file__).resolve().parents[2])
    found = [str(Path(entry).resolve()) for entry in sys.path] + [sysconfig.get_paths()["purelib"], root]
    return list(dict.fromkeys(found))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the guest with everything in it: its processes are children of it, in its session."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    else:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


assert ctypes  # loaded before the fork, so that nothing is imported between fork and exec
