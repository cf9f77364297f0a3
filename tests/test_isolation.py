"""Namespaces that clean up by lifetime: whoever dies, nothing stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import descendants, gone, until

from testbed.backends import isolation

pytestmark = pytest.mark.emulation
ROOT = Path(__file__).resolve().parent.parent
SUPERVISOR = [sys.executable, "-m", "testbed.backends.isolation", "--"]
NOBODY = 65534

# Makes a host in a network namespace, a link into it and a file, then waits; "ready" goes to standard output.
LITTLE_NETWORK = """
import os, pathlib, subprocess, time
inner = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
while os.readlink(f"/proc/{inner.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
    time.sleep(0.01)
subprocess.run(["ip", "link", "add", "d3left", "type", "veth", "peer", "name", "d3right", "netns", str(inner.pid)], check=True)
pathlib.Path("/dev/shm/d3file").write_text("x")
print("ready", flush=True)
time.sleep(1000)
"""


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SUPERVISOR, *command], capture_output=True, text=True, timeout=240, cwd=ROOT, check=False, **options)  # type: ignore[call-overload,no-any-return]


class Namespaces:
    """The network namespaces of some processes, without the caller's own. Held open until `close`, so that the kernel gives their
    numbers to no others meanwhile."""

    def __init__(self, pids: set[int]) -> None:
        self._held: dict[tuple[int, int], int] = {}
        own = os.stat("/proc/self/ns/net")
        for pid in pids:
            try:
                held = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # it has ended
            status = os.fstat(held)
            key = (status.st_dev, status.st_ino)
            if key in self._held or key == (own.st_dev, own.st_ino):
                os.close(held)
            else:
                self._held[key] = held

    def __len__(self) -> int:
        return len(self._held)

    def empty(self) -> bool:
        """Whether no process of the machine lives in any of them."""
        for entry in Path("/proc").glob("[0-9]*/ns/net"):
            try:
                status = entry.stat()
            except OSError:
                continue
            if (status.st_dev, status.st_ino) in self._held:
                return False
        return True

    def close(self) -> None:
        for held in self._held.values():
            os.close(held)


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the block, also when the block fails."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def traces() -> tuple[str, str, list[str]]:
    """What could stay behind on the machine: links, named namespaces, files."""
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    named = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    return links, named, [p.name for p in isolation.PRIVATE.iterdir() if p.name.startswith("d3")]


def test_the_command_is_root_among_its_own_processes_links_and_files() -> None:
    done = run("sh", "-c", "id -u; ls -d /proc/[0-9]* | wc -l; ls /sys/class/net; ls -A $TMPDIR")
    user, processes, *links = done.stdout.split()
    assert (user, links) == ("0", ["lo"])
    assert int(processes) <= 5


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_the_exit_status_is_passed_on(script: str, status: int) -> None:
    assert run("sh", "-c", script).returncode == status


def test_a_missing_command_is_named() -> None:
    done = run("no-such-command")
    assert done.returncode == 127
    assert "no-such-command" in done.stderr


def test_a_signal_to_the_supervisor_reaches_the_command() -> None:
    script = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); print('ready', flush=True)"
    script += "; time.sleep(60)"
    with started([*SUPERVISOR, sys.executable, "-c", script]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(30) == 9


@pytest.mark.parametrize("victim", ["parent", "supervisor", "init", "command"])
def test_kill_9_leaves_no_process_namespace_link_or_file(victim: str) -> None:
    before = traces()
    starter = (
        "import subprocess, sys\n"
        "from testbed.backends import isolation\n"
        "inside = isolation.start([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE)\n"
        "print(inside.supervisor.stdout.readline().decode().strip(), inside.supervisor.pid, inside.init_pid, flush=True)\n"
        "inside.supervisor.wait()\n"
    )
    command = [sys.executable, "-c", starter, LITTLE_NETWORK]
    with started(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) as parent:
        assert parent.stdout is not None
        word, supervisor, init = parent.stdout.readline().split()
        assert word == b"ready"
        family = descendants(parent.pid)
        assert len(family) >= 5
        namespaces = Namespaces(family)
        assert len(namespaces) == 2
        assert Path(f"/proc/{int(init)}/root/dev/shm/d3file").exists()
        child = next(p for p in family if f"/proc/{p}" and _parent(p) == int(init))
        target = {"parent": parent.pid, "supervisor": int(supervisor), "init": int(init), "command": child}[victim]
        os.kill(target, signal.SIGKILL)
        until(lambda: all(gone(pid) for pid in family - {parent.pid}))
        parent.wait(30)
    until(namespaces.empty)
    namespaces.close()
    assert traces() == before


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1])


# All that `testbed.backends.isolation` needs beside the standard library.
ALONE = ("d3node/__init__.py", "d3node/linux.py", "testbed/__init__.py", "testbed/errors.py", "testbed/backends/__init__.py")


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder that every user can read, with the module and what it imports (the checkout may be readable to its owner only)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (*ALONE, "testbed/backends/isolation.py"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, folder / path)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        yield folder


def test_an_ordinary_user_gets_namespaces_where_the_kernel_allows_it(readable: Path) -> None:
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    user += ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]  # a process between: setpriv itself may still read everything

    def done(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*user, *command], capture_output=True, text=True, cwd=readable, timeout=240, check=False)

    # The interpreter of the tests may be root's own; the system's is there with the packages that emulation needs.
    pythons = [one for one in (sys.executable, "/usr/bin/python3") if done(one, "-c", "import ctypes, typing").returncode == 0]
    assert pythons, "no Python on this machine that an ordinary user may run: apt-get install python3"
    supervisor = (pythons[0], "-m", "testbed.backends.isolation", "--")
    if done("unshare", "-Un", "true").returncode != 0:
        refused = done(*supervisor, "true")
        assert refused.returncode == isolation._REFUSED
        assert "--backend sim" in refused.stderr
        return
    inside = done(*supervisor, "sh", "-c", "id -u; ip link add left type veth peer name right && ls /sys/class/net")
    assert inside.stdout.split() == ["0", "left", "lo", "right"], inside.stderr
    assert done("id", "-u").stdout.strip() == str(NOBODY if os.geteuid() == 0 else os.geteuid())
