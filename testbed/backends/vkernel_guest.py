"""The inside of the backend `vkernel`: Mininet, agents and orchestrator in the time-travel kernel, all forked from one process.

The network, its shaping and its counters are those of the backend `mininet`. What differs: models come from captured files that
all processes map; no program is started anew (a fork takes milliseconds there, an `import torch` tens of seconds); torch runs on
the event loop, because computing takes no virtual time. The host's side is `testbed.backends.vkernel`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import os
import shutil
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from d3node.linux import CLONE_NEWNET, CLONE_NEWNS, call, die_with_parent, unshare
from testbed.backends import isolation
from testbed.backends.base import Session, Support
from testbed.backends.mininet import MininetBackend
from testbed.backends.netspec import EmulationSpec
from testbed.backends.vkernel_heap import PRELOADED_MIB, SettlingModel, settle_heap
from testbed.scenario.schema import Scenario
from topologies.layout import Layout

T = TypeVar("T")
PHASE_S = 128.0
"""A run begins at a multiple of this in the kernel's time, so that it does not matter how long the kernel has been on.

Timers of TCP (delayed acknowledgements, retransmissions) end at ticks, 10 ms apart, and the longer they are the coarser: those of
0.64 s and more at multiples of 8 ticks since the kernel began, from 5.12 s of 64, from 41 s of 512 (kernel/time/timer.c). 128 s
are 25 times 512 ticks, and a whole number of seconds.
"""


@dataclass(frozen=True)
class Child:
    """A forked process. The guest has one file system for all."""

    pid: int

    @property
    def root(self) -> Path:
        """The file system as seen from here."""
        return Path("/")

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        with contextlib.suppress(ChildProcessError):
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return 0

    def kill(self) -> None:
        """End it; its children die with it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()


class GuestBackend(MininetBackend):
    """Runs a scenario's network in this kernel. `models`: captured file by model name; empty where only sizes travel.
    `wall`: seconds on the wall."""

    name = "vkernel"

    def __init__(
        self, models: Mapping[str, str], capture_dir: Path | str | None = None, wall: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__(capture_dir)
        self._wall = wall
        self._files = dict(models)

    def support(self, scenario: Scenario) -> Support:
        """The host has looked already."""
        return Support(True)

    def spec(self, scenario: Scenario, layout: Layout, secret: bytes) -> EmulationSpec:
        """What is built for a scenario."""
        found = super().spec(scenario, layout, secret)
        assert found.agents is not None
        configs = {
            host: {**config, "inline_compute": True, "lag_interval_s": None} for host, config in found.agents.configs.items()
        }
        models = found.agents.models
        if scenario.compute.tensors == "real":
            models = {name: {"source": self._files[name]} for name in models}
        return replace(found, agents=replace(found.agents, configs=configs, models=models, threads=1))

    def run(self, scenario: Scenario, main: Callable[[Session], Awaitable[T]]) -> T:
        """As on this machine, but `main` begins at a multiple of `PHASE_S` in virtual time; see there."""

        async def begin(session: Session) -> T:
            await asyncio.sleep(_to_multiple(PHASE_S))
            return await main(session)

        return super().run(scenario, begin)

    async def settle(self) -> None:
        """Sleep until a whole second of virtual time: a measurement must not depend on what has taken how long before."""
        await asyncio.sleep(_to_multiple(1.0))

    def start_inside(
        self, scenario: Scenario, channel: socket.socket, words: IO[bytes], descriptors: tuple[int, ...] = ()
    ) -> Child:
        """Fork the process that builds the network and serves `channel`, in a network namespace of its own."""

        time.sleep(_to_multiple(1.0))

        def serve() -> None:
            os.dup2(words.fileno(), 1)
            os.dup2(words.fileno(), 2)
            unshare(CLONE_NEWNET | CLONE_NEWNS)
            _private_views()
            from testbed.backends.emulation import Emulation

            gone = contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError)
            with socket.socket(fileno=os.dup(channel.fileno())) as own, gone:
                Emulation(own, _zygote, self._wall).serve()

        shutil.rmtree(isolation.PRIVATE / "d3", ignore_errors=True)  # of an earlier network
        return fork(serve, keep=(channel.fileno(), words.fileno()))


PRELOADED = (
    "pyroute2",
    "mininet.net",
    "mininet.nodelib",
    "d3node.agent",
    "d3node.zygote",
    "testbed.backends.emulation",
    "testbed.backends.wires",
)
"""What the processes of the guest need: imported once, before any of them is forked."""

PRELOADED_FOR_TENSORS = ("torch", "d3node.program_file")
"""And where real tensors travel."""


def preload(tensors: str = "real") -> None:
    """Import it, into a heap of pages that lie together."""
    if tensors == "real":
        settle_heap(PRELOADED_MIB)
    gc.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Mininet 2.3 on newer Pythons
        for name in (*PRELOADED, *(PRELOADED_FOR_TENSORS if tensors == "real" else ())):
            importlib.import_module(name)
    if tensors == "real":
        import torch

        torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # a collection in a forked process would write into, and so copy, every page that holds an object
    gc.enable()


def fork(function: Callable[[], None], keep: tuple[int, ...] = ()) -> Child:
    """Run a function in a child that dies with this thread; it has the standard descriptors of this process, and `keep`."""
    pid = os.fork()
    if pid == 0:
        _child(function, keep)
    return Child(pid)


def _child(function: Callable[[], None], keep: tuple[int, ...]) -> NoReturn:
    status = 1
    try:
        die_with_parent()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for entry in os.listdir("/proc/self/fd"):
            if int(entry) > 2 and int(entry) not in keep:
                with contextlib.suppress(OSError):
                    os.close(int(entry))
        function()
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        sys.stdout.flush()
        os._exit(status)


def _to_multiple(period_s: float) -> float:
    return period_s - time.monotonic() % period_s


def _zygote(theirs: socket.socket) -> Child:
    from d3node.graph import LayerGraph
    from d3node.zygote import Zygote

    class GuestZygote(Zygote):
        def _load(self, request: dict[str, Any]) -> dict[str, Any]:
            answer = super()._load(request)
            for name, model in self._models.items():
                if not isinstance(model, LayerGraph):
                    self._models[name] = SettlingModel(model.program, model.normalisation)
            return answer

    def serve() -> None:
        gone = contextlib.suppress(BrokenPipeError, ConnectionResetError)
        with socket.socket(fileno=os.dup(theirs.fileno())) as channel, gone:
            GuestZygote(channel).serve()

    return fork(serve, keep=(theirs.fileno(),))


def _private_views() -> None:
    """/sys of the new network namespace, and its loopback up."""

    def mount(source: str, target: str, kind: str, flags: int) -> None:
        call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None)

    private, recursive = 1 << 18, 16384
    mount("none", "/", "none", private | recursive)
    mount("sysfs", "/sys", "sysfs", 0)
    isolation.loopback_up()
