"""Profiles: measured seconds of a model's vertices and groups on one machine, as a versioned JSON file.

Measuring (and torch) is in `measure.py`; predicting models that were not measured in `predict.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from d3node.graph import INPUT, LayerGraph
from testbed.costs.features import Kind
from testbed.costs.table import TierCosts
from testbed.errors import InputError
from testbed.names import suggestion

VERSION = 1
Calibration = Literal["whole", "single"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Record):
    """Where a profile was measured: facts that another reader needs to judge it."""

    cpu: str
    cores: int
    threads: int = Field(ge=1, description="torch.set_num_threads during the measurement")
    device: str = Field(description='"cpu", or the name of the GPU')
    torch: str
    platform: str


class VertexTime(_Record):
    """One vertex run alone: median seconds over the rounds, and the quartiles; with the features that regression needs."""

    name: str
    operator: str
    kind: Kind
    seconds: float = Field(ge=0.0)
    quartiles_s: tuple[float, float]
    features: dict[str, float] = Field(default_factory=dict)


class GroupTime(_Record):
    """Vertices `first` to `last` (both included) run as one part, beside the sum of the same vertices run alone.

    `effect` is the one over the other, below 1 where running together saves time: the median of the ratios within each round,
    which other load on the machine disturbs less than the ratio of the medians.
    """

    first: int
    last: int
    seconds: float = Field(gt=0.0)
    sum_of_vertices_s: float = Field(gt=0.0)
    effect: float = Field(gt=0.0)


class ModelProfile(_Record):
    """Measured times of one model. `vertices[0]` is the input, with 0 s; `operator_s` the overhead of one tiny operator."""

    model: str
    rounds: int
    warmup: int
    operator_s: float = Field(ge=0.0)
    whole_s: float = Field(gt=0.0)
    vertices: tuple[VertexTime, ...]
    groups: tuple[GroupTime, ...]

    @property
    def sum_of_vertices_s(self) -> float:
        """Seconds of all vertices, each run alone."""
        return sum(vertex.seconds for vertex in self.vertices)

    @property
    def group_effect(self) -> float:
        """Effect of running the whole model as one part (the last group)."""
        return self.groups[-1].effect if self.groups else 1.0

    def effects(self, calibration: float = 1.0) -> tuple[tuple[int, float], ...]:
        """(number of vertices, factor on the sum of their times) for runs of one vertex and of every length that was measured
        (the median of its groups), over what the times are multiplied with already."""
        by_length: dict[int, list[float]] = {}
        for group in self.groups:
            by_length.setdefault(group.last - group.first + 1, []).append(group.effect)
        by_length.setdefault(1, [1.0])
        return tuple((length, median(effects) / calibration) for length, effects in sorted(by_length.items()))


class Profile(_Record):
    """A profile file: one machine, one or more models."""

    format: Literal["d3-testbed profile"] = "d3-testbed profile"
    version: Literal[1] = 1
    machine: Machine
    models: dict[str, ModelProfile]

    def tier_costs(self, model: str, graph: LayerGraph, calibration: Calibration = "whole") -> TierCosts:
        """Costs of one model of the file.

        The fixed part of a vertex is the measured operator overhead times its operators (never more than its time), the rest
        scales with work. With calibration "whole" all times are multiplied by `group_effect`, so that a part of many vertices,
        which is what plans run, takes what it was measured to take; "single" leaves each vertex's own time.
        Raises InputError where the model is not in the file, or was captured differently.
        """
        if model not in self.models:
            raise InputError(f'profile: model "{model}" was not measured{suggestion(model, self.models, "in the file")}')
        measured = self.models[model]
        names = [vertex.name for vertex in graph]
        if [vertex.name for vertex in measured.vertices] != names:
            raise InputError(
                f'profile: model "{model}" was measured with other vertices ({len(measured.vertices)}, now {len(names)});'
                " measure it again with `testbed profile`"
            )
        factor = measured.group_effect if calibration == "whole" else 1.0
        fixed, scaled = [], []
        for vertex, time in zip(graph, measured.vertices, strict=True):
            seconds = time.seconds * factor
            overhead = (
                0.0 if vertex.index == INPUT else min(seconds, max(1, len(vertex.operators)) * measured.operator_s * factor)
            )
            fixed.append(overhead)
            scaled.append(seconds - overhead)
        machine = self.machine
        source = f"measured on {machine.cpu if machine.device == 'cpu' else machine.device}, {machine.threads} thread(s)"
        return TierCosts(tuple(fixed), tuple(scaled), source=source, effects=measured.effects(factor))

    def to_json(self) -> str:
        """JSON text that `from_json` reads back to an equal profile."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "profile") -> Profile:
        """Read what `to_json` wrote. Raises InputError naming the file and the key."""
        return _validated(cls, text, name)


def scaled(profile: Profile, factor: float) -> Profile:
    """The profile of a machine `factor` times as fast: every time divided by it. Raises ValueError unless it is above 0."""
    if factor <= 0.0:
        raise ValueError(f"a machine cannot be {factor} times as fast")

    def slower(model: ModelProfile) -> ModelProfile:
        vertices = tuple(
            vertex.model_copy(
                update={
                    "seconds": vertex.seconds / factor,
                    "quartiles_s": (vertex.quartiles_s[0] / factor, vertex.quartiles_s[1] / factor),
                }
            )
            for vertex in model.vertices
        )
        groups = tuple(
            group.model_copy(update={"seconds": group.seconds / factor, "sum_of_vertices_s": group.sum_of_vertices_s / factor})
            for group in model.groups
        )
        return model.model_copy(
            update={
                "vertices": vertices,
                "groups": groups,
                "whole_s": model.whole_s / factor,
                "operator_s": model.operator_s / factor,
            }
        )

    machine = profile.machine.model_copy(update={"cpu": f"{profile.machine.cpu} x {factor:g}"})
    return profile.model_copy(update={"machine": machine, "models": {k: slower(m) for k, m in profile.models.items()}})


def load(path: str | Path) -> Profile:
    """Read a profile file. Raises InputError naming file and key."""
    return Profile.from_json(read_text(path), str(path))


def save(profile: Profile, path: str | Path) -> None:
    """Write a profile file; models of the same machine that are already in it are kept."""
    target = Path(path)
    if target.exists():
        before = load(target)
        if before.machine == profile.machine:
            profile = profile.model_copy(update={"models": {**before.models, **profile.models}})
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(profile.to_json(), encoding="utf-8")


def read_text(path: str | Path) -> str:
    """Text of a profile or predictor file. Raises InputError where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise InputError(f"profile {path}: {reason}") from error


def _validated(cls: type[Profile], text: str, name: str) -> Profile:
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise InputError(f"profile {name}: not JSON ({error})") from error
    if not isinstance(raw, dict) or raw.get("format") != "d3-testbed profile":
        raise InputError(f"profile {name}: not a profile file (`testbed profile MODEL --out {name}` writes one)")
    if raw.get("version") != VERSION:
        raise InputError(f"profile {name}: version {raw.get('version')} is not {VERSION}; measure again with `testbed profile`")
    try:
        return cls.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"profile {name}, key {key}: {first['msg']}") from error
