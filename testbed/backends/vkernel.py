"""The backend `vkernel`: the same Mininet network, agents and orchestrator, in a Linux kernel whose clock jumps.

This is the host's side: what is missing here, models captured into files that the guest maps, and the boot. The guest's side is
`testbed.backends.vkernel_guest`; the kernel is `testbed.kernel`'s.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from d3node import graph_cache
from d3node.model import CAPTURED, ModelSpec, captured_within, load_graph, load_model
from testbed.backends.base import Carried, Session, Support
from testbed.backends.mininet_support import missing_packages
from testbed.errors import BackendError
from testbed.kernel import cache, guest
from testbed.kernel.guest import Job, Limits
from testbed.scenario.schema import Scenario

T = TypeVar("T")


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
        reasons += missing_packages()
        return Support(not reasons, reasons)

    def run(self, scenario: Scenario, main: Callable[[Session], Awaitable[T]]) -> T:
        """A coroutine of this process cannot run on another kernel's clock. Raises BackendError; see `carry`."""
        raise BackendError(
            "backend vkernel has another kernel's clock: a run is carried into it as a whole (testbed.orchestrator.run does "
            "that; Python code of your own goes in as a function of a module, with VkernelBackend.carry)"
        )

    def carry(self, scenario: Scenario, job: Carried, listener: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Boot, run the job there with the files of the scenario's models as its argument `models`, switch off; facts."""
        kernel = cache.installed()
        if kernel is None:
            raise BackendError("the time-travel kernel is not built: testbed kernel build")
        files = captured(scenario)
        mapped, beyond = placed(list(files.values()))
        arguments = {**job.arguments, "models": {name: mapped.get(file, str(file)) for name, file in files.items()}}
        memory_mib = guest.MEMORY_MIB + (beyond >> 20)
        outcome = guest.run(
            kernel,
            Job(job.call, arguments, writable=(job.folder,), mapped=list(mapped), memory_mib=memory_mib),
            listener,
            Limits(wall_s=job.wall_limit_s),
        )
        return {**outcome.facts, "result": outcome.result}


def placed(files: list[Path]) -> tuple[dict[Path, str], int]:
    """The sources of the models that the guest gets as memory of the host, by file, and the bytes of those that do not fit in.

    These are mapped from the host's file system, which takes the guest's own memory, and more time.
    """
    mapped = guest.mappable(files)
    sources = {file: captured_within(guest.MAPPER, place) for file, place in zip(mapped, guest.offsets(mapped), strict=True)}
    return sources, sum(file.stat().st_size for file in files if file not in sources)


def captured(scenario: Scenario) -> dict[str, Path]:
    """A file with each of the scenario's models, captured now or found in the user's cache.

    None where only sizes travel: the guest then finds the graphs in the user's cache, where this puts them.
    """
    specs = {name: ModelSpec(name, scenario.model.seed, scenario.model.weights.get(name)) for name in scenario.model.names}
    if scenario.compute.tensors == "sizes":
        for spec in specs.values():
            load_graph(spec)
        return {}
    return {name: captured_model(spec) for name, spec in specs.items()}


def captured_model(spec: ModelSpec) -> Path:
    """The captured file of one model. Everything that decides what is in it is in its name."""
    facts = [graph_cache.key(spec.source), spec.seed, spec.weights, hashlib.sha256(_code()).hexdigest()]
    if spec.weights is not None:
        status = Path(spec.weights).stat()
        facts += [status.st_size, status.st_mtime_ns]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    path = graph_cache.folder().with_name("captured") / f"{digest}{CAPTURED}"
    if not path.is_file():
        from d3node import program_file  # torch comes with it

        program_file.save(load_model(spec), path)
    return path


def _code() -> bytes:
    return b"".join(Path(graph_cache.__file__).with_name(f"{name}.py").read_bytes() for name in ("program_file", "instructions"))
