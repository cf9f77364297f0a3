"""Measure a model on this machine: every vertex alone, runs of vertices together, and the whole, with torch's real kernels.

All of them are run through `Model.run_part`, as agents do. Rounds go through the model in order, so that a vertex finds the
caches as it does in an inference, and a noisy second spoils one round and not one vertex; medians are kept. What a profile is,
and its file, is in `profile.py`.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from d3node.graph import INPUT
from d3node.model import Model, ModelSpec, load_model
from testbed.costs.features import features_of, kind_of
from testbed.costs.profile import GroupTime, Machine, ModelProfile, Profile, VertexTime
from testbed.errors import InputError
from testbed.names import label

if TYPE_CHECKING:
    from torch import Tensor

Device = Literal["cpu", "cuda"]
Progress = Callable[[int, int], None]
"""Called after every round with (rounds done, rounds in all)."""

_TINY_OPERATORS = 3
_TINY_RUNS = 200


def profile_model(
    spec: ModelSpec,
    *,
    threads: int = 1,
    device: Device = "cpu",
    rounds: int = 10,
    warmup: int = 2,
    progress: Progress | None = None,
) -> Profile:
    """Load a model and measure it, in a profile under the model's label. Errors as `measure`, and ModelError."""
    return measure(
        load_model(spec), label(spec.source), threads=threads, device=device, rounds=rounds, warmup=warmup, progress=progress
    )


def measure(
    model: Model,
    name: str,
    *,
    threads: int = 1,
    device: Device = "cpu",
    rounds: int = 10,
    warmup: int = 2,
    progress: Progress | None = None,
) -> Profile:
    """Measure a loaded model: medians of `rounds` after `warmup` unmeasured ones, with `threads` threads of torch.

    On "cuda" the device is synchronised before and after every measured run, so that launches and work both count, as they
    do where parts exchange tensors over a network. Raises InputError where the device is missing or a figure makes no sense.
    """
    import torch

    if rounds < 1 or warmup < 0 or threads < 1:
        raise InputError(f"cannot measure {rounds} round(s) after {warmup} warm-up(s) with {threads} thread(s)")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("this machine or this build of torch has no CUDA device; measure with --device cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            measured = _Measurement(_moved(model, device), device).run(name, rounds, warmup, progress)
    finally:
        torch.set_num_threads(before)
    return Profile(machine=_machine(threads, device), models={name: measured})


class _Measurement:
    """Tensors of one inference, and the runs that are timed on them."""

    def __init__(self, model: Model, device: Device) -> None:
        import torch

        self.model, self.graph = model, model.graph
        self.synchronise: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
        self.device = device
        self.values: dict[int, Tensor] = {INPUT: model.input_of(model.image(0)).to(device)}
        for v in range(INPUT + 1, len(self.graph)):
            self.values[v] = self._alone(v)

    def run(self, name: str, rounds: int, warmup: int, progress: Progress | None) -> ModelProfile:
        alone = [(v,) for v in range(INPUT + 1, len(self.graph))]
        groups = _groups(len(self.graph))
        samples: dict[tuple[int, ...], list[float]] = {}
        tiny: list[float] = []
        for done in range(warmup + rounds):
            for part in (*alone, *reversed(groups)):
                seconds = self._timed(part)
                if done >= warmup:
                    samples.setdefault(part, []).append(seconds)
            tiny.append(self._tiny_operator_s())
            if progress is not None:
                progress(done + 1, warmup + rounds)
        median = {part: statistics.median(values) for part, values in samples.items()}
        whole = groups[-1]
        return ModelProfile(
            model=name,
            rounds=rounds,
            warmup=warmup,
            operator_s=statistics.median(tiny),
            whole_s=median[whole],
            vertices=(self._vertex(INPUT, [0.0]), *(self._vertex(part[0], samples[part]) for part in alone)),
            groups=tuple(
                GroupTime(
                    first=part[0],
                    last=part[-1],
                    seconds=median[part],
                    sum_of_vertices_s=sum(median[(v,)] for v in part),
                    effect=statistics.median(
                        samples[part][turn] / sum(samples[(v,)][turn] for v in part) for turn in range(rounds)
                    ),
                )
                for part in groups
            ),
        )

    def _vertex(self, v: int, values: Sequence[float]) -> VertexTime:
        vertex = self.graph[v]
        low, middle, high = _quartiles(values)
        features = {} if v == INPUT else {k: float(x) for k, x in asdict(features_of(self.graph, v)).items() if k != "kind"}
        return VertexTime(
            name=vertex.name,
            operator=vertex.operator,
            kind=kind_of(vertex),
            seconds=middle,
            quartiles_s=(low, high),
            features=features,
        )

    def _alone(self, v: int) -> Tensor:
        """The tensor of one vertex. An answer's vertex and one that is used later both are boundary outputs of themselves."""
        return self.model.run_part((v,), self.values)[v]

    def _timed(self, part: tuple[int, ...]) -> float:
        self.synchronise()
        start = time.perf_counter()
        self.model.run_part(part, self.values)
        self.synchronise()
        return time.perf_counter() - start

    def _tiny_operator_s(self) -> float:
        """Seconds of one operator that has next to nothing to compute: mean of a convolution, a batch norm and a ReLU."""
        import torch
        from torch.nn import functional

        x, one = torch.ones(1, 1, 1, 1, device=self.device), torch.ones(1, device=self.device)
        self.synchronise()
        start = time.perf_counter()
        for _ in range(_TINY_RUNS):
            functional.relu(functional.batch_norm(functional.conv2d(x, x), one, one))
        self.synchronise()
        return (time.perf_counter() - start) / (_TINY_RUNS * _TINY_OPERATORS)


def _groups(vertices: int) -> list[tuple[int, ...]]:
    """Neighbouring runs of 2, 4, 8, ... vertices (any run of the topological order is a legal part); the last is the whole."""
    everything = tuple(range(INPUT + 1, vertices))
    found: list[tuple[int, ...]] = []
    length = 2
    while length < len(everything):
        runs = (everything[start : start + length] for start in range(0, len(everything), length))
        found.extend(run for run in runs if len(run) == length)
        length *= 2
    return [*found, everything]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _moved(model: Model, device: Device) -> Model:
    """The model with its weights on a device."""
    if device == "cpu":
        return model
    constants = {key: tensor.to(device) for key, tensor in model.program.constants.items()}
    return Model(replace(model.program, constants=constants), model.normalisation)


def _machine(threads: int, device: Device) -> Machine:
    import torch

    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=threads,
        device="cpu" if device == "cpu" else torch.cuda.get_device_name(),
        torch=torch.__version__,
        platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"
