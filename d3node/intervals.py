"""Reverse tile calculation: which part of every map a tile of a stack's output needs.

Interval arithmetic only, no torch. Source: D3's VSM (fused tile stack, patent CN112363844B); the exact border rule is our
reconstruction, valid for any kernel, stride, padding and dilation, where the published FTP ranges (DeepThings) are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from d3node.graph import LayerGraph, Pair, Spatial

Box = tuple[Pair, Pair]
"""Half-open row range and half-open column range."""


def area(box: Box) -> int:
    """Number of positions in a box (0 when it is empty)."""
    return max(0, box[0][1] - box[0][0]) * max(0, box[1][1] - box[1][0])


def union(a: Box, b: Box) -> Box:
    """Smallest box that holds both; an empty box adds nothing."""
    if not area(a):
        return b
    if not area(b):
        return a
    return tuple((min(x[0], y[0]), max(x[1], y[1])) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def intersection(a: Box, b: Box) -> Box:
    """Common part of two boxes; it has no area when there is none."""
    return (max(a[0][0], b[0][0]), min(a[0][1], b[0][1])), (max(a[1][0], b[1][0]), min(a[1][1], b[1][1]))


def unclipped(spatial: Spatial, axis: int, span: Pair) -> Pair:
    """Input range (half-open, may leave the map at both ends) that an output range reads along one axis."""
    if spatial.kind != "window" or span[0] >= span[1]:
        return span
    stride, padding = spatial.stride[axis], spatial.padding[axis]
    reach = spatial.dilation[axis] * (spatial.kernel[axis] - 1)
    return stride * span[0] - padding, stride * (span[1] - 1) - padding + reach + 1


def needed(spatial: Spatial, box: Box, rows: int, columns: int) -> Box:
    """Part of an input map of rows x columns that an output box reads; empty when it reads only padding."""
    (top, bottom), (left, right) = unclipped(spatial, 0, box[0]), unclipped(spatial, 1, box[1])
    return (max(0, top), min(rows, bottom)), (max(0, left), min(columns, right))


@dataclass(frozen=True)
class TileRegion:
    """What one tile computes and reads: `produced[v]` for every vertex of the stack, `read[u]` for every tensor from outside."""

    produced: dict[int, Box]
    read: dict[int, Box]


def reverse(graph: LayerGraph, vertices: Sequence[int], output: Box) -> TileRegion:
    """Walk a stack from its output vertex (the last) back to its inputs; regions of several consumers are united.

    `vertices` ascending, all spatial; `output` is a non-empty box of the last vertex's map.
    """
    regions: dict[int, Box] = {vertices[-1]: output}
    members = set(vertices)
    for v in reversed(vertices):
        spatial = graph[v].spatial
        assert spatial is not None, graph[v].name
        for producer in graph[v].inputs:
            box = needed(spatial, regions[v], graph[producer].rows, graph[producer].columns)
            regions[producer] = union(regions[producer], box) if producer in regions else box
    return TileRegion(
        produced={v: regions[v] for v in vertices},
        read={u: box for u, box in sorted(regions.items()) if u not in members},
    )


def split(length: int, shares: Sequence[float]) -> list[Pair]:
    """Cut [0, length) into consecutive ranges proportional to `shares` (>= 0, some > 0); ranges may be empty.

    With equal shares this is D3's floor(length*i/n) rule.
    """
    total = float(sum(shares))
    edges = [0]
    passed = 0.0
    for share in shares[:-1]:
        passed += share
        edges.append(max(edges[-1], int(length * passed / total + 1e-9)))
    edges.append(length)
    return [(edges[i], edges[i + 1]) for i in range(len(shares))]


def grid_boxes(rows: int, columns: int, row_shares: Sequence[float], column_shares: Sequence[float]) -> list[Box]:
    """Boxes of a grid, row-major: rows cut by `row_shares`, columns by `column_shares`; they cover the map exactly."""
    across = split(columns, column_shares)
    return [(r, c) for r in split(rows, row_shares) for c in across]
