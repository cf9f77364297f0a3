"""The backend `vkernel`: the same Mininet network, agents and orchestrator, in a Linux kernel whose clock jumps.

This is the host's side: what is missing here, and the boot, which several runs may share. The guest's side is
`testbed.backends.vkernel_serve` and `vkernel_guest`; models are `vkernel_models`', the kernel is `testbed.kernel`'s.
"""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from testbed.backends.base import Carried, Session, Support
from testbed.backends.mininet_only import refusals
from testbed.backends.mininet_support import missing_packages
from testbed.backends.vkernel_models import captured, placed
from testbed.errors import BackendError
from testbed.kernel import cache
from testbed.kernel.boot import MEMORY_MIB, Job
from testbed.kernel.guest import Guest, Limits
from testbed.scenario.schema import Scenario

T = TypeVar("T")
Listener = Callable[[dict[str, Any]], None]


class VkernelBackend:
    """See the module. `capture_dir`: where to write a pcap file per backbone link (in the run folder), or None."""

    name = "vkernel"

    def __init__(self, capture_dir: Path | str | None = None) -> None:
        self.capture_dir = None if capture_dir is None else Path(capture_dir)

    def support(self, scenario: Scenario) -> Support:
        """Whether this machine can run the scenario; every missing thing is named with the way to get it."""
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            return Support(False, ["the time-travel kernel runs on x86-64 Linux only; use --backend sim"])
        reasons = []
        if cache.installed() is None:
            reasons.append("the time-travel kernel is not built: testbed kernel build (some minutes, once)")
        if scenario.compute.mode == "measured":
            reasons.append('computing takes no time there: compute.mode = "modelled", or another backend')
        reasons += refusals(scenario)
        reasons += missing_packages()
        return Support(not reasons, reasons)

    def run(self, scenario: Scenario, main: Callable[[Session], Awaitable[T]]) -> T:
        """A coroutine of this process cannot run on another kernel's clock. Raises BackendError; see `carry`."""
        raise BackendError(
            "backend vkernel has another kernel's clock: a run is carried into it as a whole (testbed.orchestrator.run does "
            "that; Python code of your own goes in as a function of a module, with VkernelBackend.carry)"
        )

    def carry(self, scenario: Scenario, job: Carried, listener: Listener) -> dict[str, Any]:
        """Boot, run the job there with the files of the scenario's models as its argument `models`, switch off; facts."""
        with self.shared() as boot:
            return boot.carry(scenario, job, listener)

    def shared(self) -> AbstractContextManager[SharedBoot]:
        """This backend, with one boot for all that it carries."""
        return SharedBoot(self)


class SharedBoot:
    """The backend `vkernel` with a kernel that stays on from run to run; each run has processes and a network of its own.

    It boots when something is to be carried, and again where the boot before has ended (a guest that died, was stuck, interrupted
    or took too long), or has not the models of this run, or torch. Between runs the guest stands still, in host time and its own.
    A context manager, at whose end nothing is left of it.
    """

    name = VkernelBackend.name

    def __init__(self, backend: VkernelBackend) -> None:
        self.capture_dir = backend.capture_dir
        self._backend = backend
        self._guest: Guest | None = None
        self._sources: dict[Path, str] = {}  # of every model so far
        self._tensors = "sizes"
        self._runs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Switch the guest off; the next run boots anew."""
        found, self._guest = self._guest, None
        if found is not None:
            found.__exit__(None, None, None)

    def support(self, scenario: Scenario) -> Support:
        """As the backend says."""
        return self._backend.support(scenario)

    def shared(self) -> AbstractContextManager[SharedBoot]:
        """This very boot."""
        return nullcontext(self)

    def carry(self, scenario: Scenario, job: Carried, listener: Listener) -> dict[str, Any]:
        """Run the job with the files of the scenario's models as its argument `models`; facts, and `run`: which one of this boot.

        What the job raises is raised, and the kernel stays on. Where it was the guest that failed, the next run boots another.
        """
        if booting := self._guest is None:
            listener({"event": "booting"})
        files = captured(scenario)
        lacking = scenario.compute.tensors == "real" and self._tensors != "real"
        if self._guest is not None and (lacking or not self._sources.keys() >= set(files.values())):
            self.close()
        if self._guest is None:
            if not booting:
                listener({"event": "booting"})
            self._boot(files.values(), scenario.compute.tensors if lacking else self._tensors)
        assert self._guest is not None
        models = {name: self._sources[file] for name, file in files.items()}
        arguments = {**job.arguments, "models": models}
        self._runs += 1
        try:
            self._guest.give({"call": job.call, "arguments": arguments, "folder": str(job.folder)})
            ending = self._guest.follow(listener, Limits(wall_s=job.wall_limit_s), until="served")
        except BaseException:
            self.close()
            raise
        if "error" in ending:
            raise self._guest.error(ending)
        return {**self._guest.facts(), "run": self._runs, "result": ending["result"]}

    def _boot(self, files: Iterable[Path], tensors: str) -> None:
        kernel = cache.installed()
        if kernel is None:
            raise BackendError("the time-travel kernel is not built: testbed kernel build")
        self._sources, mapped = placed(list(dict.fromkeys((*self._sources, *files))))
        beyond = sum(file.stat().st_size for file in self._sources if file not in mapped)
        memory_mib = MEMORY_MIB + (beyond >> 20)
        job = Job("testbed.backends.vkernel_serve:serve", {"tensors": tensors}, mapped=mapped, memory_mib=memory_mib)
        self._guest, self._tensors, self._runs = Guest(kernel, job).__enter__(), tensors, 0
