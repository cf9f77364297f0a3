"""Process 1 of the guest: mounts what is needed, runs one job in a child, keeps the host informed, and switches the machine off.

Started by the kernel as `python -P -s -B inside.py SPEC`; SPEC is the file that `testbed.kernel.guest` wrote. What goes to the
host goes through files of the spool folder, which are the host's own: writing them never waits for a reader, so it cannot bend
time.

    events     one line of JSON for each event, the job's and these: started {release, ...}, end {result} or {error, text, trace}
    clock      virtual seconds since boot, rewritten about once in a virtual second
    output     standard output and error of the job
    stop       made by the host: the job shall end (it gets an interrupt, as from Ctrl-C)
    inbox      0.json, 1.json, ...: work that the host has given to a job that takes some; the job finds the folder in $D3_INBOX
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

Fields = dict[str, Any]
INBOX = "inbox"
TICK_S = 1.0
"""Virtual seconds between two looks at the clock and at the host's wishes."""

READ_AHEAD_KIB = 1024

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MNT_DETACH = 2
_POWER_OFF = 0x4321FEDC
_LIBC = ctypes.CDLL(None, use_errno=True)


class Events:
    """Lines to the host. Each is with the host when `send` returns."""

    def __init__(self, spool: Path) -> None:
        self._file = os.open(spool / "events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def send(self, event: str, **fields: Any) -> None:
        """Append an event with the moment of virtual time that it happened at."""
        line = json.dumps({"event": event, "virtual_s": round(time.monotonic(), 6), **fields}) + "\n"
        os.write(self._file, line.encode())


def main(spec_file: str) -> NoReturn:
    """Never returns: the end of process 1 would be a panic."""
    events = None
    try:
        spec: Fields = json.loads(Path(spec_file).read_text(encoding="utf-8"))
        spool = Path(spec["spool"])
        _mounts([str(spool), *spec["writable"]])
        events = Events(spool)
        _read_ahead()
        _loopback_up()
        _wait_for_fine_timers()
        os.environ.update(spec["environment"], D3_INBOX=str(spool / INBOX))
        events.send("started", release=os.uname().release, command_line=Path("/proc/cmdline").read_text().strip())
        _run(spec, spool, events)
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        if events is not None:
            events.send("end", error="BackendError", text=f"the guest could not be set up: {text}", trace=traceback.format_exc())
        else:
            os.write(2, f"the guest could not be set up: {text}\n".encode())
    finally:
        os.sync()
        _LIBC.reboot(ctypes.c_int(_POWER_OFF))
    raise AssertionError("switched off")


def _run(spec: Fields, spool: Path, events: Events) -> None:
    """Run the job in a child; pass the host's wish to stop on; tell how the job ended if it cannot do so itself."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        _job(spec, spool, events)
    clock = os.open(spool / "clock", os.O_WRONLY | os.O_CLOEXEC)
    stopped = False
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, TICK_S)
        os.pwrite(clock, b"%020.6f" % time.monotonic(), 0)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == child:
                if status != 0:
                    code = os.waitstatus_to_exitcode(status)
                    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
                    events.send("end", error="RunError", text=f"the job's process {how}", trace="")
                return
            if pid == 0:
                break
        if not stopped and (spool / "stop").exists():
            stopped = True
            os.kill(child, signal.SIGINT)


def _job(spec: Fields, spool: Path, events: Events) -> NoReturn:
    """Import the function and call it with a way to send events and its arguments."""
    status = 1
    try:
        output = os.open(spool / "output", os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(spec["folder"])
        sys.path[:] = spec["path"]
        sys.argv = ["testbed"]
        module, _, name = spec["call"].partition(":")
        function = getattr(importlib.import_module(module), name)
        events.send("end", result=function(events.send, **spec["arguments"]))
        status = 0
    except BaseException as error:
        events.send("end", error=type(error).__name__, text=str(error), trace=traceback.format_exc())
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    if _LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{kind} cannot be mounted on {target}: {os.strerror(number)}")


def _mounts(writable: list[str]) -> None:
    """The host's file system is the root, read-only; the folders of `writable` are the host's too, and can be written to."""
    harmless = _MS_NOSUID | _MS_NODEV
    _mount("proc", "/proc", "proc", harmless | _MS_NOEXEC, "")
    _mount("sysfs", "/sys", "sysfs", harmless | _MS_NOEXEC, "")
    _mount("devtmpfs", "/dev", "devtmpfs", _MS_NOSUID, "")
    for name in ("pts", "shm"):
        Path("/dev", name).mkdir(exist_ok=True)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        Path("/dev", name).symlink_to(f"/proc/self/fd/{number}")
    Path("/dev/fd").symlink_to("/proc/self/fd")
    _mount("devpts", "/dev/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, "ptmxmode=0666,mode=0620")
    _mount("tmpfs", "/dev/shm", "tmpfs", harmless, "mode=1777")
    for folder in writable:
        make_writable(folder)


def make_writable(folder: str) -> None:
    """Let the guest write to a folder of the host, at the same place."""
    _mount("none", folder, "hostfs", _MS_NOSUID | _MS_NODEV, folder)


def make_read_only(folder: str) -> None:
    """Take `make_writable` back; whoever has files open there may go on."""
    _LIBC.umount2(folder.encode(), _MNT_DETACH)


def _read_ahead() -> None:
    """A read of the host's files costs a call each time, and no disk: read more at once than a disk would."""
    for setting in Path("/sys/class/bdi").glob("*/read_ahead_kb"):
        setting.write_text(str(READ_AHEAD_KIB))


def _wait_for_fine_timers() -> None:
    """Let the first ticks pass: until then the kernel's timers, and the resolution that it states, are coarse.

    All up to here took no time. An event loop that is made now would take 10 ms for the clock's resolution for ever, and run
    every callback up to 10 ms before its time.
    """
    while time.get_clock_info("monotonic").resolution > 1e-6:
        time.sleep(0.01)


def _loopback_up() -> None:
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        fcntl.ioctl(probe, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


if __name__ == "__main__":
    main(sys.argv[1])
