"""Boots the time-travel kernel with one job in it, passes on what the job says, and watches that it gets on.

The guest is an ordinary process of this user. It dies with the thread that started it, and so does everything in it. Its job may
be one that takes work piece by piece: `Guest.follow` returns at an event of one's choice, and the guest then stands still until
it is followed again. The other end is `testbed.kernel.inside`, whose description of the spool folder holds for both.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from d3node import errors as node_errors
from d3node.errors import NodeError
from d3node.linux import die_with_parent
from testbed import errors
from testbed.errors import AgentError, BackendError, RunError, TestbedError
from testbed.kernel import boot, inside, mapper
from testbed.kernel.boot import Job
from testbed.kernel.cache import Kernel
from testbed.kernel.spool import spool

Fields = dict[str, Any]
Listener = Callable[[Fields], None]

_POLL_S = 0.02
_TAIL_BYTES = 3000


@dataclass(frozen=True)
class Limits:
    """When a guest counts as stuck. `wall_s`: the user's own limit, from when it is followed. `still_s`: wall seconds in which
    virtual time may stand still without an event (computing and importing take no virtual time). `silent_virtual_s`: virtual
    seconds without an event."""

    wall_s: float | None = None
    still_s: float = 300.0
    silent_virtual_s: float = 36_000.0
    stop_grace_s: float = 10.0


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
    with Guest(kernel, job) as guest:
        end = guest.follow(listener, limits)
        return Outcome(end["result"], guest.facts())


class Guest:
    """A kernel with a job in it; a context manager that boots it and at its end leaves nothing of it.

    `folder`: its spool folder, which it sees, too.
    """

    def __init__(self, kernel: Kernel, job: Job) -> None:
        self.folder: Path
        self._kernel, self._job, self._held = kernel, job, ExitStack()
        self._process: subprocess.Popen[bytes]
        self._events: Any
        self._limits = Limits()
        self._listener: Listener = _ignore
        self._end: Fields | None = None
        self._pending = b""
        self._virtual_s = 0.0
        self._event_virtual_s = 0.0
        self._last_event = "none"
        self._command: list[str] = []
        self._begun = self._booted = self._followed = self._moved = time.monotonic()
        self._resident_kib = self._given = 0
        self._told = {"output": 0, "console": 0}

    def __enter__(self) -> Self:
        with ExitStack() as held:
            self.folder = held.enter_context(spool())
            self._process = self._boot()
            held.callback(_kill, self._process)
            self._events = held.enter_context((self.folder / "events").open("rb"))
            self._held = held.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def give(self, work: Fields) -> None:
        """Put a piece of work into the guest's inbox (see `testbed.kernel.inside`), when the one before is done."""
        inbox, scratch = self.folder / inside.INBOX, self.folder / "work.tmp"
        scratch.write_text(json.dumps(work), encoding="utf-8")
        (inbox / f"{self._given - 1}.json").unlink(missing_ok=True)
        scratch.rename(inbox / f"{self._given}.json")
        self._given += 1

    def follow(self, listener: Listener | None = None, limits: Limits | None = None, until: str = "end") -> Fields:
        """Pass events on, up to the first one called `until`, which is returned; the guest then stands still.

        Raises as `run` does. A guest that was interrupted, or is stuck, has ended then.
        """
        self._listener, self._limits = listener or _ignore, limits or Limits()
        self._followed = self._moved = time.monotonic()
        self._event_virtual_s = self._virtual_s
        self._signal(signal.SIGCONT)
        found: Fields | None = None
        try:
            while found is None and self._process.poll() is None and self._end is None:
                time.sleep(_POLL_S)
                found = self._take(until)
                if found is None:
                    self._judge()
                self._weigh()
            found = found or self._take(until)
        except (KeyboardInterrupt, RunError):
            self._ask_to_stop()
            _kill(self._process)
            raise
        if self._end is None:
            self._signal(signal.SIGSTOP)
        else:
            with suppress(subprocess.TimeoutExpired):  # switching off takes a moment
                self._process.wait(5.0)
            _kill(self._process)
            if "error" in self._end:
                raise self.error(self._end)
        if found is None:
            raise BackendError(f"the guest ended without a result (status {self._process.poll()}){self._tail()}")
        self._told = {name: (self.folder / name).stat().st_size for name in self._told}
        return found

    def facts(self) -> Fields:
        """For manifests. `boot_s`: wall seconds until the guest's first process ran. `peak_mib`: memory of this machine that the
        guest took, `mapped_mib` of it for mapped files."""
        mapped = mapper.offsets(self._job.mapped, end=True)[-1]
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
            (self.folder / name).touch()
        (self.folder / inside.INBOX).mkdir()
        (self.folder / "spec.json").write_text(json.dumps(boot.specification(self._job, self.folder)), encoding="utf-8")
        shared = mapper.shared(self._job.mapped) if self._job.mapped else None
        self._command = boot.command_line(self._kernel, self.folder, self._job.memory_mib, shared)
        # What memory the guest has is an unlinked file in TMPDIR. (HOME is where user-mode Linux would look for its settings.)
        environment = {
            "TMPDIR": boot.memory_folder(self._job.memory_mib),
            "HOME": str(self.folder),
            "PATH": os.environ.get("PATH", ""),
        }
        with (self.folder / "console").open("ab") as console:
            try:
                return subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    cwd=self.folder,
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

    def _take(self, until: str) -> Fields | None:
        """Read what has come since the last time, and pass it on; the event called `until`, if that was among it."""
        clock = (self.folder / "clock").read_bytes().strip(b"\0 ")
        if clock and (now := float(clock)) > self._virtual_s:
            self._virtual_s, self._moved = now, time.monotonic()
        found = None
        *lines, self._pending = (self._pending + self._events.read()).split(b"\n")
        for line in lines:
            fields = json.loads(line)
            self._moved = time.monotonic()
            self._virtual_s = self._event_virtual_s = max(self._virtual_s, fields["virtual_s"])
            self._last_event = fields["event"]
            if fields["event"] == "end":
                self._end = fields
            if fields["event"] == until:
                found = fields
            elif fields["event"] == "started":
                self._booted = time.monotonic()
            elif fields["event"] != "end":
                self._listener(fields)
        return found

    def _weigh(self) -> None:
        """The kernel's own process maps all of the guest's memory, and gives nothing back before it ends."""
        with suppress(OSError, ValueError):
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii", errors="replace")
            _, found, rest = status.partition("VmHWM:")
            if found:
                self._resident_kib = max(self._resident_kib, int(rest.split(maxsplit=1)[0]))

    def _judge(self) -> None:
        """Raise RunError for a guest that takes too long or does not get on."""
        limits, now = self._limits, time.monotonic()
        if self._end is not None:
            return
        if limits.wall_s is not None and now - self._followed > limits.wall_s:
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

    def _ask_to_stop(self) -> None:
        """Let the job end in order, if it can do so soon; a second Ctrl-C ends the wait."""
        (self.folder / "stop").touch()
        end = time.monotonic() + self._limits.stop_grace_s
        while self._process.poll() is None and self._end is None and time.monotonic() < end:
            time.sleep(_POLL_S)
            self._take("end")

    def _signal(self, number: int) -> None:
        """Stop or continue: the kernel's own process is where all of the guest runs."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _where(self) -> str:
        return f"; virtual time {self._virtual_s:.3f} s, last event {self._last_event!r} at {self._event_virtual_s:.3f} s"

    def _tail(self) -> str:
        parts = [(name, self._last(name)) for name in ("output", "console")]
        return "".join(f"\n-- end of its {name} --\n{text}" for name, text in parts if text)

    def _last(self, name: str) -> str:
        told = (self.folder / name).read_bytes()[self._told[name] :]
        text = told[-_TAIL_BYTES:].decode(errors="replace")
        return text.replace("reboot: Power down", "").strip()

    def error(self, end: Fields) -> TestbedError | NodeError | KeyboardInterrupt:
        """The error that an event's fields `error`, `text` and `trace` tell of."""
        kind = getattr(errors, end["error"], None) or getattr(node_errors, end["error"], None)
        if isinstance(kind, type) and issubclass(kind, NodeError):
            return kind(end["text"])
        if isinstance(kind, type) and issubclass(kind, TestbedError):
            return kind(end["text"] + (self._tail() if issubclass(kind, BackendError | AgentError | RunError) else ""))
        if end["error"] == "KeyboardInterrupt":
            return KeyboardInterrupt()
        return JobError(f"{end['error']}: {end['text']}\n{end['trace']}{self._tail()}".strip())


def _die_with(parent: int) -> None:
    die_with_parent()
    if os.getppid() != parent:  # it died before it could be watched
        os._exit(1)


def _ignore(_event: Fields) -> None:
    """A listener for whom there is none."""


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
