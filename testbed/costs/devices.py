"""Device descriptions: costs of any model from three published figures of a machine and its software.

t(vertex) = operators x o + FLOP / F (convolutions and all else that counts FLOP) or weight bytes / B (dense layers, whichever
is slower). The figures, their sources and their errors are in `devices/*.toml`; measured profiles are in `profile.py`.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from d3node.graph import INPUT, LayerGraph
from testbed.costs.features import kind_of
from testbed.costs.table import TierCosts
from testbed.errors import InputError
from testbed.names import suggestion

FOLDER = Path(__file__).parent / "devices"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Convolution(_Table):
    """Rate of convolutions, and of every other vertex that counts FLOP (2 per multiply-accumulate)."""

    gflop_per_s: float = Field(gt=0.0)
    source: str = Field(min_length=10)


class Dense(_Table):
    """Rate at which a dense layer reads its weights, counted as float32."""

    gbyte_per_s: float = Field(gt=0.0)
    source: str = Field(min_length=10)


class Operator(_Table):
    """Overhead of one operator; at batch 1 it also stands for memory-bound batch norms, activations and pools."""

    us: float = Field(ge=0.0)
    source: str = Field(min_length=10)


class Power(_Table):
    """What the whole board draws while it computes; for energy objectives."""

    active_w: float = Field(gt=0.0)
    source: str = Field(min_length=10)


class FittedModel(_Table):
    """A published latency, and how far the three figures are from it: 100 x (predicted - published) / published."""

    model: str
    published_ms: float = Field(gt=0.0)
    error_percent: float
    source: str


class Fit(_Table):
    """How well the figures describe what was published, and what to mistrust."""

    summary: str
    weak: tuple[str, ...] = ()
    models: tuple[FittedModel, ...] = ()


class DeviceDescription(_Table):
    """One machine with its software: the same board is several times faster or slower under another framework."""

    name: str
    hardware: str
    software: str
    basis: Literal["fitted", "scaled", "by hand"]
    convolution: Convolution
    dense: Dense
    operator: Operator
    fit: Fit
    power: Power | None = None

    def tier_costs(self, graph: LayerGraph) -> TierCosts:
        """Seconds of every vertex: per-operator overhead as the fixed part, work as the scaled part. The input is free."""
        fixed, scaled = [], []
        for vertex in graph:
            fixed.append(0.0 if vertex.index == INPUT else max(1, len(vertex.operators)) * self.operator.us * 1e-6)
            seconds = vertex.flops / (self.convolution.gflop_per_s * 1e9)
            if kind_of(vertex) == "dense":
                seconds = max(seconds, vertex.parameter_bytes / (self.dense.gbyte_per_s * 1e9))
            scaled.append(seconds)
        source = f"device description {self.name} ({self.basis})"
        return TierCosts(tuple(fixed), tuple(scaled), source, None if self.power is None else self.power.active_w)


@cache
def known() -> dict[str, Path]:
    """Files of the shipped descriptions by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


@cache
def describe(name: str | Path) -> DeviceDescription:
    """A shipped description by name, or one's own from a path to a `.toml` file of the same form.

    Raises InputError for an unknown name (with the nearest known one), or a file that is no description.
    """
    path = known().get(str(name), Path(name))
    if str(name) not in known() and path.suffix != ".toml":
        raise InputError(f'unknown device "{name}"{suggestion(str(name), known(), "described")}')
    try:
        return DeviceDescription.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"device description {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"device description {path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"device description {path}, key {key}: {first['msg']}") from error


def tier_costs(device: str | Path, graph: LayerGraph) -> TierCosts:
    """Costs of a model on a described device; errors as for `describe`."""
    return describe(device).tier_costs(graph)
