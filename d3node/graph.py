"""The layer graph of a DNN: vertices are (fused) operators, edges are tensors.

Plain data with no torch inside; how a graph is captured from a model is `d3node.capture`'s business.
Source of the model: D3, patent CN112297014B, claim 1: a DAG of layers with an extra input vertex in front.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from d3node.errors import ModelError

INPUT = 0
"""Index of the virtual input vertex; it is pinned to the device and costs nothing to compute."""

Pair = tuple[int, int]
SpatialKind = Literal["window", "pointwise", "add", "concat"]


@dataclass(frozen=True, slots=True)
class Spatial:
    """Receptive-field geometry of a vertex that can be computed in tiles; pairs are (rows, columns).

    `window`: convolution or pooling; output row b needs input rows `stride*b - padding` to
    `stride*b - padding + dilation*(kernel-1)`, as far as they exist. `padding` is the leading padding (top, left); the
    trailing one follows from the sizes (`ceil_mode` and "same" padding included).
    `pointwise`, `add`, `concat` (along channels): rows and columns map one to one, for every input.
    """

    kind: SpatialKind
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of the exported model, as listed before fusion. `flops` counts 2 per multiply-accumulate."""

    name: str
    target: str
    output_shape: tuple[int, ...]
    flops: int


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor of weights that a vertex computes with: a parameter, a buffer, or what was folded into a constant."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Vertex:
    """One unit of placement: an operator with the cheap operators fused behind it.

    `index` is its place in the graph's topological order; `inputs` are producers' indices in argument order, without
    repeats; `operator` is the head operator's short name ("conv2d", "linear", "input"); `output_shape` includes the
    batch; `flops` is 2 per multiply-accumulate; `spatial` is None where the vertex cannot be tiled. `parameters`: the tensors
    behind `parameter_bytes`, by name; vertices may share one.
    """

    index: int
    name: str
    operator: str
    inputs: tuple[int, ...]
    output_shape: tuple[int, ...]
    output_bytes: int
    flops: int = 0
    parameter_bytes: int = 0
    spatial: Spatial | None = None
    operators: tuple[Operator, ...] = ()
    parameters: tuple[Parameter, ...] = ()

    @property
    def rows(self) -> int:
        """Height of the output map (tileable vertices only)."""
        return self.output_shape[-2]

    @property
    def columns(self) -> int:
        """Width of the output map (tileable vertices only)."""
        return self.output_shape[-1]


@dataclass(frozen=True)
class LayerGraph:
    """A DNN as a DAG in topological order; vertex 0 is the input. `outputs` are the vertices whose tensors are the answer."""

    name: str
    vertices: tuple[Vertex, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.vertices or self.vertices[INPUT].inputs:
            raise ModelError(f"graph {self.name!r}: vertex 0 must be the input vertex, without producers")
        for position, vertex in enumerate(self.vertices):
            if vertex.index != position:
                raise ModelError(f"graph {self.name!r}: vertex {vertex.name!r} has index {vertex.index} at place {position}")
            if any(producer >= position for producer in vertex.inputs):
                raise ModelError(f"graph {self.name!r}: vertex {vertex.name!r} comes before one of its producers")
            if position != INPUT and not vertex.inputs:
                raise ModelError(f"graph {self.name!r}: vertex {vertex.name!r} has no producer")
        if not self.outputs or any(not 0 <= v < len(self.vertices) for v in self.outputs):
            raise ModelError(f"graph {self.name!r}: needs at least one output among its vertices")

    def __len__(self) -> int:
        return len(self.vertices)

    def __iter__(self) -> Iterator[Vertex]:
        return iter(self.vertices)

    def __getitem__(self, index: int) -> Vertex:
        return self.vertices[index]

    @cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        """For every vertex the indices of its consumers, ascending."""
        found: list[list[int]] = [[] for _ in self.vertices]
        for vertex in self.vertices:
            for producer in vertex.inputs:
                found[producer].append(vertex.index)
        return tuple(tuple(consumers) for consumers in found)

    @cached_property
    def edges(self) -> tuple[Pair, ...]:
        """All (producer, consumer) pairs."""
        return tuple((producer, vertex.index) for vertex in self.vertices for producer in vertex.inputs)

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Longest distance of every vertex from the input: D3's graph layers Z_q (patent CN112297014B, claim 1, step 3)."""
        level = [0] * len(self.vertices)
        for vertex in self.vertices[1:]:
            level[vertex.index] = 1 + max(level[producer] for producer in vertex.inputs)
        return tuple(level)

    @cached_property
    def last_use(self) -> tuple[int, ...]:
        """For every vertex the index of its last consumer; `len(graph)` for an output (it lives to the end)."""
        last = [max(consumers, default=v) for v, consumers in enumerate(self.successors)]
        for v in self.outputs:
            last[v] = len(self.vertices)
        return tuple(last)

    def live_set(self, position: int) -> tuple[int, ...]:
        """Tensors that must cross a cut behind `position`: made at or before it, used after it (or an output)."""
        return tuple(v for v in range(position + 1) if self.last_use[v] > position)

    def boundary(self, part: Collection[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Inputs (producers outside) and outputs (used outside, or an answer) of a set of vertices, ascending."""
        members = set(part)
        inputs = {p for v in members for p in self.vertices[v].inputs if p not in members}
        outputs = {v for v in members if v in self.outputs or any(s not in members for s in self.successors[v])}
        return tuple(sorted(inputs)), tuple(sorted(outputs))

    def is_convex(self, part: Collection[int]) -> bool:
        """True when no path leaves the set and comes back."""
        members = set(part)
        if not members:
            return True
        outside: set[int] = set()
        for v in range(min(members), max(members) + 1):
            reached = any(p in members or p in outside for p in self.vertices[v].inputs)
            if v in members:
                if any(p in outside for p in self.vertices[v].inputs):
                    return False
            elif reached:
                outside.add(v)
        return True

    def with_input_bytes(self, input_bytes: int) -> LayerGraph:
        """The same graph with another size of the travelling input (a uint8 image instead of a float32 tensor, say)."""
        first = replace(self.vertices[INPUT], output_bytes=input_bytes)
        return replace(self, vertices=(first, *self.vertices[1:]))

    def to_json(self) -> str:
        """JSON text that `from_json` reads back to an equal graph."""
        return json.dumps({"name": self.name, "outputs": self.outputs, "vertices": [asdict(v) for v in self.vertices]})

    @classmethod
    def from_json(cls, text: str) -> LayerGraph:
        """Read what `to_json` wrote. Raises ModelError for anything else."""
        try:
            raw = json.loads(text)
            vertices = tuple(_vertex(item) for item in raw["vertices"])
            return cls(name=raw["name"], vertices=vertices, outputs=tuple(raw["outputs"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"not a layer graph in JSON: {error}") from error


def _vertex(raw: dict[str, Any]) -> Vertex:
    plain: dict[str, Any] = _tuples(raw)
    spatial = plain.pop("spatial")
    operators = plain.pop("operators")
    parameters = plain.pop("parameters", ())
    return Vertex(
        **plain,
        spatial=None if spatial is None else Spatial(**_tuples(spatial)),
        operators=tuple(Operator(**_tuples(item)) for item in operators),
        parameters=tuple(Parameter(**_tuples(item)) for item in parameters),
    )


def _tuples(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
