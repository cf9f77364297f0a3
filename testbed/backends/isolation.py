"""Runs a command in namespaces of its own (network, mounts, processes, IPC, host name), so that clean-up is by lifetime.

A supervisor makes the namespaces and forks the init (process 1) of the new ones, which starts the command. When the supervisor,
its parent (if asked) or the init dies, even by SIGKILL, the kernel kills every process inside, and with the last of them go their
network interfaces, queues, sockets and files on the private /dev/shm. Nothing is ever looked up or killed by name.

Root makes the namespaces directly, an ordinary user through a user namespace where the kernel allows one. By hand:
`python -m testbed.backends.isolation -- ip link`. What runs inside is left to the caller. Imports little, to start fast.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from d3node.linux import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    call,
    die_with_parent,
    unshare,
)
from testbed.errors import BackendError

PRIVATE = Path("/dev/shm")
"""A tmpfs that only the inside sees (from outside through `Isolated.root`); it is also the inside's TMPDIR."""

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_PR_SET_DUMPABLE = 4
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_REFUSED = 125
"""Exit status of a supervisor that could not make the namespaces; its last line on standard error says why."""

WAYS_OUT = (
    "run as root (sudo), use the virtual machine (vagrant up), or use --backend sim; user namespaces are switched on by "
    "sysctl kernel.unprivileged_userns_clone=1 (Debian) or kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu 24.04), "
    "and need user.max_user_namespaces above 0"
)


@dataclass
class Isolated:
    """A running command in namespaces. `init_pid` is its process 1, in the caller's numbering."""

    supervisor: subprocess.Popen[bytes]
    init_pid: int

    @property
    def root(self) -> Path:
        """The inside's file system as seen from outside, private tmpfs included."""
        return Path(f"/proc/{self.init_pid}/root")

    def stop(self, grace_s: float = 5.0) -> int:
        """Ask the command to end (SIGTERM), kill it after the grace time, and return its exit status."""
        if self.supervisor.poll() is None:
            self.supervisor.terminate()
            try:
                self.supervisor.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.supervisor.wait()

    def kill(self) -> None:
        """End everything inside at once; returns when the supervisor is gone."""
        self.supervisor.kill()
        self.supervisor.wait()


def start(
    command: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
) -> Isolated:
    """Start a command in namespaces; it ends at the latest when the calling thread ends.

    It runs in a session of its own, so that Ctrl-C at the terminal reaches the caller only. Raises BackendError, with the ways
    out, where this kernel or user may not make namespaces.
    """
    package_root = str(Path(__file__).resolve().parents[2])
    variables = {**os.environ, **(environment or {})}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (variables.get("PYTHONPATH"), package_root)))
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, f"--parent={os.getpid()}", f"--ready={writer}", "--", *command],
            pass_fds=(writer, *pass_fds),
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        word = pipe.read().decode()
    if not word.isdigit():
        process.wait()
        raise BackendError(word or f"the supervisor of the namespaces ended with status {process.returncode} before it started")
    return Isolated(process, int(word))


def supervise(command: Sequence[str], *, parent: int | None = None, ready: int | None = None) -> int:
    """Run a command in new namespaces, pass signals in, and return its exit status (128 + n after signal n).

    `ready` is a descriptor that gets the init's process number, or the reason why there is none. Must be called in a process
    with one thread. Raises BackendError where namespaces are refused.
    """
    if parent is not None:
        die_with_parent()
        if os.getppid() != parent:
            return _REFUSED
    try:
        _make_namespaces()
    except OSError as error:
        text = _refusal(error)
        if ready is not None:
            os.write(ready, text.encode())
        raise BackendError(text) from error
    watched = {*_FORWARDED, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    go, starter = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(starter)
        die_with_parent()
        if os.read(go, 1) != b"g":  # the supervisor died before it could be watched
            os._exit(_REFUSED)
        _init(command, (go, ready), watched)
    os.close(go)
    if ready is not None:
        os.write(ready, str(child).encode())
        os.close(ready)
    os.write(starter, b"g")
    os.close(starter)
    return _wait(child, lambda number: os.kill(child, number), watched)


def _wait(child: int, forward: Callable[[int], None], watched: set[signal.Signals]) -> int:
    """Reap children and forward signals until `child` ends; its exit status as a shell would give it."""
    while True:
        number = signal.sigwait(watched)
        if number != signal.SIGCHLD:
            forward(number)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break


def _make_namespaces() -> None:
    if os.geteuid() != 0:
        uid, gid = os.geteuid(), os.getegid()
        unshare(CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)


def _refusal(error: OSError) -> str:
    who = "root" if os.geteuid() == 0 else "an ordinary user"
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS):
        return f"this machine does not let {who} make network namespaces ({error.strerror}): {WAYS_OUT}"
    return f"namespaces are not available here ({error.strerror}): {WAYS_OUT}"


def _init(command: Sequence[str], descriptors: tuple[int, int | None], watched: set[signal.Signals]) -> NoReturn:
    """Process 1 inside: mount what must be private, start the command, reap orphans, end with the command's status."""
    status = _REFUSED
    try:
        for descriptor in descriptors:
            if descriptor is not None:
                os.close(descriptor)
        call("prctl", ctypes.c_int(_PR_SET_DUMPABLE), ctypes.c_ulong(1), 0, 0, 0)  # an ordinary user may look at our root
        _mounts()
        loopback_up()
        socket.sethostname("testbed")
        child = os.fork()
        if child == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
            os.environ["TMPDIR"] = str(PRIVATE)
            try:
                os.execvp(command[0], list(command))
            except OSError as error:
                os.write(2, f"{command[0]}: {error.strerror}\n".encode())
                os._exit(127)
        status = _wait(child, lambda number: os.kill(child, number), watched)
    except BaseException as error:
        os.write(2, f"cannot set up the namespaces: {error!r}\n".encode())
    finally:
        os._exit(status)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())


def _mounts() -> None:
    harmless = _MS_NOSUID | _MS_NODEV
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc", harmless | _MS_NOEXEC)
    _mount("sysfs", "/sys", "sysfs", harmless | _MS_NOEXEC)
    _mount("tmpfs", str(PRIVATE), "tmpfs", harmless, "mode=1777")
    _mount("devpts", "/dev/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    _mount("/dev/pts/ptmx", "/dev/ptmx", "", _MS_BIND)


def loopback_up() -> None:
    """Switch on the loopback interface of the calling thread's network namespace. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(probe, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def main(arguments: Sequence[str]) -> int:
    """`[--parent=PID] [--ready=DESCRIPTOR] -- COMMAND...`; see `supervise`."""
    options: dict[str, int] = {}
    rest = list(arguments)
    while rest and rest[0] != "--":
        name, _, value = rest.pop(0).partition("=")
        options[name] = int(value)
    command = rest[1:]
    if not command or set(options) - {"--parent", "--ready"}:
        sys.stderr.write(f"usage: python -m {__spec__.name if __spec__ else __name__} -- COMMAND...\n")
        return 2
    try:
        return supervise(command, parent=options.get("--parent"), ready=options.get("--ready"))
    except BackendError as error:
        sys.stderr.write(f"{error}\n")
        return _REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
