"""Facts about the vertices of a layer graph, one row each, for whoever shows them; prints nothing itself."""

from __future__ import annotations

from dataclasses import dataclass

from d3node.graph import LayerGraph, Pair


@dataclass(frozen=True, slots=True)
class Row:
    """One vertex. Pairs are (rows, columns) and None where the vertex (or one before it) has no such geometry.

    `field` is the cumulative receptive field: how many input positions one output position depends on along each axis, over
    the widest path; `jump` is how many input positions lie between two neighbouring output positions.
    """

    index: int
    name: str
    operator: str
    fused: tuple[str, ...]
    inputs: tuple[str, ...]
    output_shape: tuple[int, ...]
    output_bytes: int
    flops: int
    parameter_bytes: int
    kind: str | None
    kernel: Pair | None
    stride: Pair | None
    padding: Pair | None
    dilation: Pair | None
    field: Pair | None
    jump: Pair | None

    @property
    def tileable(self) -> bool:
        """True where the vertex can be part of a stack of tiles."""
        return self.kind is not None


def describe(graph: LayerGraph) -> list[Row]:
    """One row per vertex, in the graph's order."""
    fields: list[tuple[Pair, Pair] | None] = []
    rows = []
    for vertex in graph:
        fields.append(_field(graph, vertex.index, fields))
        spatial, seen = vertex.spatial, fields[-1]
        window = spatial is not None and spatial.kind == "window"
        rows.append(
            Row(
                index=vertex.index,
                name=vertex.name,
                operator=vertex.operator,
                fused=tuple(_short(one.target) for one in vertex.operators[1:]),
                inputs=tuple(graph[u].name for u in vertex.inputs),
                output_shape=vertex.output_shape,
                output_bytes=vertex.output_bytes,
                flops=vertex.flops,
                parameter_bytes=vertex.parameter_bytes,
                kind=None if spatial is None else spatial.kind,
                kernel=spatial.kernel if spatial is not None and window else None,
                stride=spatial.stride if spatial is not None and window else None,
                padding=spatial.padding if spatial is not None and window else None,
                dilation=spatial.dilation if spatial is not None and window else None,
                field=None if seen is None else seen[0],
                jump=None if seen is None else seen[1],
            )
        )
    return rows


def _field(graph: LayerGraph, v: int, fields: list[tuple[Pair, Pair] | None]) -> tuple[Pair, Pair] | None:
    """Receptive field and jump of a vertex from those of its producers."""
    vertex, spatial = graph[v], graph[v].spatial
    if not vertex.inputs:
        return ((1, 1), (1, 1)) if len(vertex.output_shape) == 4 else None
    if spatial is None:
        return None
    before = [fields[u] for u in vertex.inputs]
    seen = [pair for pair in before if pair is not None]
    if len(seen) < len(before):
        return None
    size, jump = [], []
    for axis in (0, 1):
        reach = spatial.dilation[axis] * (spatial.kernel[axis] - 1)
        size.append(max(field[axis] + reach * step[axis] for field, step in seen))
        jump.append(max(step[axis] for _, step in seen) * spatial.stride[axis])
    return (size[0], size[1]), (jump[0], jump[1])


def _short(target: str) -> str:
    """ "relu" for "aten.relu_.default"."""
    parts = target.split(".")
    return (parts[1] if len(parts) > 2 else target).strip("_")
