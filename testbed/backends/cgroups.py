"""Limits of the CPU time of hosts, by control groups (version 1 or 2): made by the process that runs the testbed, outside.

Groups are no part of any namespace, so clean-up is not by lifetime: they are named for the process that made them, removed when
the run ends, and where that process was killed, by the next one that makes some. Agents put themselves into their group when they
are forked (`d3node.zygote`), through a descriptor of the run's folder that is passed in: the inside sees no other group.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.errors import BackendError

PERIOD_US, LONGEST_PERIOD_US, SHORTEST_QUOTA_US = 10_000, 1_000_000, 1_000
"""A host computes for its quota in each period, and waits for the rest. Short, so that a layer is slowed down evenly; the kernel
takes no quota below a millisecond and no period above a second."""

_OURS = "d3-testbed"
_REMOVAL_S = 10.0
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Throttling:
    """Of one host since the start: periods in which it ran, in how many of them it used up its quota, and how long its threads
    then waited (seconds, summed over CPUs)."""

    periods: int
    throttled: int
    throttled_s: float


@dataclass(frozen=True)
class Hierarchy:
    """Where groups with the CPU controller are made, and what version of control groups that is."""

    folder: Path
    version: Literal[1, 2]


def hierarchy(mounts: Path = Path("/proc/self/mounts")) -> Hierarchy:
    """The hierarchy that holds the CPU controller here. Raises BackendError with what is in the way, and the way out."""
    second = None
    for line in mounts.read_text(encoding="utf-8").splitlines():
        _, where, kind, options, *_ = line.split(" ")
        folder = Path(where.encode().decode("unicode_escape"))
        if kind == "cgroup" and "cpu" in options.split(","):
            return _writable(Hierarchy(folder, 1))
        if kind == "cgroup2":
            second = folder
    if second is None:
        raise BackendError("no control groups with the CPU controller are mounted (mount -t cgroup2 none /sys/fs/cgroup)")
    if "cpu" not in (second / "cgroup.controllers").read_text(encoding="ascii").split():
        raise BackendError(
            f"the control groups in {second} have no CPU controller (in a container: its machine's have, --privileged)"
        )
    return _writable(Hierarchy(second, 2))


def _writable(found: Hierarchy) -> Hierarchy:
    if os.access(found.folder, os.W_OK) and not os.statvfs(found.folder).f_flag & os.ST_RDONLY:
        return found
    raise BackendError(
        f"control groups cannot be made in {found.folder}: run as root, and a container with --privileged "
        "(or the cgroup file system writable)"
    )


class CpuLimits:
    """The groups of one run: a folder with one for each limited host. `cpus`: how many CPUs' time a host may take.

    Use as a context manager; the groups are removed at its end, when nothing runs in them any more.
    """

    def __init__(self, cpus: Mapping[str, float], where: Hierarchy | None = None) -> None:
        self.cpus = dict(cpus)
        self._where = where or hierarchy()
        self._shares = dict.fromkeys(self.cpus, 1.0)
        self._parent = self._where.folder / _OURS
        self.folder = self._parent / f"run-{_owner(os.getpid())}-{next(_numbers)}"
        self.descriptor = -1

    def __enter__(self) -> CpuLimits:
        """Make the groups. Raises BackendError."""
        try:
            if self._where.version == 2:
                _pass_on_cpu(self._where.folder)
            self._make(self._parent)
            _remove_orphans(self._parent)
            self._make(self.folder)
            for host in self.cpus:
                (self.folder / host).mkdir()
                self.share(host, 1.0)
            self.descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except (OSError, BackendError) as error:
            self.remove()
            raise BackendError(f"control groups that limit CPUs cannot be made: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def share(self, host: str, share: float) -> None:
        """From now on a host may take this share of its CPUs. Raises BackendError unless the kernel holds it then."""
        self._shares[host] = share
        quota, period = quota_us(self.cpus[host] * share)
        folder = self.folder / host
        if self._where.version == 1:
            _write(folder / "cpu.cfs_quota_us", "-1")  # a period alone may stand against the quota of another one
            _write(folder / "cpu.cfs_period_us", str(period))
            _write(folder / "cpu.cfs_quota_us", str(quota))
        else:
            _write(folder / "cpu.max", f"{quota} {period}")
        if self.read_back(host) != (quota, period):
            raise BackendError(f"the limit of {host} is not in force: {self.read_back(host)} instead of {(quota, period)}")

    def read_back(self, host: str) -> tuple[int, int]:
        """Quota and period that the kernel holds, in microseconds; quota -1: none."""
        folder = self.folder / host
        if self._where.version == 1:
            return int((folder / "cpu.cfs_quota_us").read_text()), int((folder / "cpu.cfs_period_us").read_text())
        quota, period = (folder / "cpu.max").read_text().split()
        return -1 if quota == "max" else int(quota), int(period)

    def wrong(self) -> list[str]:
        """Hosts whose limit is not what it was set to."""
        return [host for host in self.cpus if self.read_back(host) != quota_us(self.cpus[host] * self._shares[host])]

    def throttling(self) -> dict[str, Throttling]:
        """What the limits did so far."""
        return {host: self._throttling(host) for host in self.cpus}

    def _throttling(self, host: str) -> Throttling:
        lines = (self.folder / host / "cpu.stat").read_text(encoding="ascii").splitlines()
        found = {name: int(value) for name, value in (line.split() for line in lines)}
        seconds = found["throttled_time"] / 1e9 if self._where.version == 1 else found["throttled_usec"] / 1e6
        return Throttling(found["nr_periods"], found["nr_throttled"], seconds)

    def describe(self) -> dict[str, object]:
        """Facts for the manifest."""
        return {"cgroup_version": self._where.version, "cpus": self.cpus, "period_s": PERIOD_US / 1e6}

    def remove(self) -> None:
        """Remove the groups, as soon as the last process in them is gone. What cannot be removed is left to the next run."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        end = time.monotonic() + _REMOVAL_S
        while not _removed(self.folder) and time.monotonic() < end:
            time.sleep(0.02)
        with contextlib.suppress(OSError):
            self._parent.rmdir()  # unless another run has groups there

    def _make(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        if self._where.version == 2:
            _write(folder / "cgroup.subtree_control", "+cpu")


def _pass_on_cpu(folder: Path) -> None:
    """Let groups in a version 2 hierarchy have the CPU controller: systemd passes it on only once a unit of its own wants it. It
    stays on, as another run, or a unit, may have come to need it. Raises BackendError."""
    control = folder / "cgroup.subtree_control"
    if "cpu" not in control.read_text(encoding="ascii").split():
        try:
            _write(control, "+cpu")
        except OSError as error:
            raise BackendError(f"the CPU controller cannot be passed on (echo +cpu > {control}: {error.strerror})") from error


def quota_us(cpus: float) -> tuple[int, int]:
    """Quota and period in microseconds that give so many CPUs' time. Below a thousandth of a CPU it is that."""
    period = min(LONGEST_PERIOD_US, max(PERIOD_US, round(SHORTEST_QUOTA_US / max(cpus, 1e-9))))
    return max(SHORTEST_QUOTA_US, round(cpus * period)), period


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="ascii")


def _owner(pid: int) -> str:
    """A process that is told from all others: its process namespace, number, and start in ticks since boot."""
    started = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return f"{os.stat(f'/proc/{pid}/ns/pid').st_ino}-{pid}-{started}"


def _remove_orphans(parent: Path) -> None:
    """Remove the groups of runs whose process is gone. Those of other process namespaces are theirs to remove."""
    here = os.stat("/proc/self/ns/pid").st_ino
    for folder in parent.glob(f"run-{here}-*"):
        _, _, pid, _, _ = folder.name.split("-")
        try:
            alive = folder.name.startswith(f"run-{_owner(int(pid))}-")
        except OSError:
            alive = False
        if not alive:
            _removed(folder)


def _removed(folder: Path) -> bool:
    """Whether a group and those in it could be removed, or were not there."""
    try:
        for inner in folder.iterdir() if folder.exists() else ():
            if inner.is_dir():
                inner.rmdir()
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
    except OSError:
        return False
    return True
