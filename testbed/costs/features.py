"""What a vertex's latency is predicted from: its kind and sizes.

The published feature sets are those of Neurosurgeon (ASPLOS 2017) and Edgent (2018): for a convolution the input feature
amount and (filter / stride)^2 x filters; for pools and dense layers input and output size; for all else input size.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

from d3node.graph import INPUT, LayerGraph, Vertex

Kind = Literal["conv", "dense", "pool", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FeatureSet = Literal["published", "extended"]

COLUMNS: dict[FeatureSet, dict[Kind, tuple[str, ...]]] = {
    "published": {
        "conv": ("operators", "input_elements", "filter_work"),
        "dense": ("operators", "input_elements", "output_elements"),
        "pool": ("operators", "input_elements", "output_elements"),
        "other": ("operators", "input_elements"),
    },
    "extended": {
        "conv": ("operators", "input_elements", "output_elements", "filter_work", "flops", "parameter_bytes"),
        "dense": ("operators", "input_elements", "output_elements", "flops", "parameter_bytes"),
        "pool": ("operators", "input_elements", "output_elements", "window_reads"),
        "other": ("operators", "input_elements", "output_elements", "flops"),
    },
}
"""Columns of the regression per feature set and kind. "operators" stands for the intercept: a vertex of several fused operators
has several overheads. "extended" adds what the work really is: FLOP, bytes of weights, elements read by windows."""


@dataclass(frozen=True)
class Features:
    """Sizes of one vertex. `filter_work` is (filter area / stride area) x filters; `window_reads` output
    elements x filter area."""

    kind: Kind
    operators: int
    input_elements: int
    output_elements: int
    filter_work: float
    window_reads: int
    flops: int
    parameter_bytes: int

    def row(self, columns: tuple[str, ...]) -> list[float]:
        """The values of some columns, in their order."""
        return [float(getattr(self, column)) for column in columns]


def kind_of(vertex: Vertex) -> Kind:
    """The kind of a vertex, from its head operator's name."""
    name = vertex.operator.lower()
    if "conv" in name:
        return "conv"
    if "pool" in name or name.startswith("mean"):
        return "pool"
    if name.startswith(("linear", "addmm", "mm", "bmm", "matmul", "baddbmm")):
        return "dense"
    return "other"


def features_of(graph: LayerGraph, v: int) -> Features:
    """Features of one vertex. Raises ValueError for the input vertex, which computes nothing."""
    if v == INPUT:
        raise ValueError("the input vertex has no features")
    vertex = graph[v]
    output_elements = prod(vertex.output_shape)
    area, stride_area = _window(graph, vertex)
    filters = vertex.output_shape[1] if len(vertex.output_shape) > 1 else 1
    return Features(
        kind=kind_of(vertex),
        operators=max(1, len(vertex.operators)),
        input_elements=sum(prod(graph[p].output_shape) for p in vertex.inputs),
        output_elements=output_elements,
        filter_work=area / stride_area * filters,
        window_reads=round(output_elements * area),
        flops=vertex.flops,
        parameter_bytes=vertex.parameter_bytes,
    )


def _window(graph: LayerGraph, vertex: Vertex) -> tuple[float, float]:
    """Area of the filter and of the stride; where a pool or a convolution has no geometry, from the ratio of its sizes."""
    if vertex.spatial is not None:
        return float(prod(vertex.spatial.kernel)), float(prod(vertex.spatial.stride))
    if kind_of(vertex) == "pool" and vertex.inputs:
        ratio = max(1.0, prod(graph[vertex.inputs[0]].output_shape) / prod(vertex.output_shape))
        return ratio, ratio
    return 1.0, 1.0
