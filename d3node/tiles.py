"""Compute one tile of a stack's output map from the regions of the input maps that it needs, without loss.

Every window operator runs without padding of its own on a region that gets exactly the border which the whole map would
have given it there: zeros for convolutions, minus infinity for max pooling, nothing but the right count for average
pooling; borders between tiles get none. Which regions are needed is `d3node.intervals`' business (D3's VSM).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor

from d3node.errors import ComputeError
from d3node.graph import LayerGraph, Pair, Spatial
from d3node.instructions import Code, Constant, Instruction, Program, run, settled
from d3node.intervals import Box, TileRegion, area, intersection, needed, reverse, unclipped
from d3node.operators import base_name, constant_padding, pair
from d3node.parts import checked
from d3node.reuse import PartialRegion

NOTHING: Box = ((0, 0), (0, 0))


def region_of(graph: LayerGraph, vertices: Sequence[int], box: Box) -> TileRegion:
    """`intervals.reverse`, which also takes an empty tile: it produces and reads nothing."""
    if area(box):
        return reverse(graph, vertices, box)
    return TileRegion(dict.fromkeys(vertices, NOTHING), dict.fromkeys(graph.boundary(vertices)[0], NOTHING))


def pieces_of(program: Program, region: TileRegion, tensors: Mapping[int, Tensor]) -> list[Tensor]:
    """The read regions of one tile, by ascending producer vertex: contiguous, and copies unless they are whole maps.

    A tile that needs nothing of a map gets a piece of 0 rows and 0 columns. Raises ComputeError for missing tensors.
    """
    pieces = []
    for u, box in sorted(region.read.items()):
        if u not in tensors:
            raise ComputeError(f"tiles of {program.graph.name!r} need the tensor of vertex {u}, which was not given")
        (top, bottom), (left, right) = box if area(box) else NOTHING
        pieces.append(checked(program, u, tensors[u])[..., top:bottom, left:right].contiguous())
    return pieces


def run_tile(program: Program, vertices: Sequence[int], region: TileRegion, pieces: Sequence[Tensor]) -> Tensor:
    """The tile of the last vertex's map that `region` describes, from its pieces (as `pieces_of` cuts them).

    Raises ComputeError for pieces that do not fit, and where an operator fails.
    """
    graph = program.graph
    held: dict[int, tuple[Tensor, Box]] = {}
    if len(pieces) != len(region.read):
        raise ComputeError(f"a tile of {graph.name!r} got {len(pieces)} pieces instead of {len(region.read)}")
    for (u, box), piece in zip(sorted(region.read.items()), pieces, strict=True):
        box = box if area(box) else NOTHING
        expected = (*graph[u].output_shape[:2], *_sizes(box))
        if tuple(piece.shape) != expected:
            raise ComputeError(f"a piece of {graph[u].name!r} (vertex {u}) has shape {tuple(piece.shape)} instead of {expected}")
        held[u] = settled(piece), box
    output, dtype = vertices[-1], pieces[0].dtype
    if not area(region.produced[output]):
        return torch.empty((*graph[output].output_shape[:2], 0, 0), dtype=dtype)
    last = {u: v for v in vertices for u in graph[v].inputs}
    with torch.inference_mode():
        for v in vertices:
            box = region.produced[v]
            if area(box):
                try:
                    held[v] = _vertex(program, v, box, held, dtype), box
                except (RuntimeError, ValueError, TypeError) as error:
                    raise ComputeError(f"a tile of {graph[v].name!r} (vertex {v}) of {graph.name!r} failed: {error}") from error
            for u in graph[v].inputs:
                if last[u] == v:
                    held.pop(u, None)
    return held[output][0]


def run_partial(
    program: Program,
    vertices: Sequence[int],
    region: PartialRegion,
    pieces: Sequence[Tensor],
    given: Sequence[tuple[int, Box, Tensor]],
    keep: Sequence[tuple[int, Box]],
) -> tuple[Tensor, list[Tensor]]:
    """A tile of which parts of inner maps are given (`d3node.reuse`), and the parts of its own inner maps that are to be kept.

    `pieces` are the `region.read` of the tensors from outside, by ascending vertex. Raises ComputeError for what does not fit.
    """
    graph = program.graph
    held: dict[int, tuple[Tensor, Box]] = {}
    if len(pieces) != len(region.read):
        raise ComputeError(f"a tile of {graph.name!r} got {len(pieces)} pieces instead of {len(region.read)}")
    for (u, box), piece in zip(region.read.items(), pieces, strict=True):
        box = box if area(box) else NOTHING
        expected = (*graph[u].output_shape[:2], *_sizes(box))
        if tuple(piece.shape) != expected:
            raise ComputeError(f"a piece of {graph[u].name!r} (vertex {u}) has shape {tuple(piece.shape)} instead of {expected}")
        held[u] = settled(piece), box
    dtype = pieces[0].dtype
    kept: dict[int, Tensor] = {}
    last = {u: v for v in vertices for u in graph[v].inputs}
    with torch.inference_mode():
        for v in vertices:
            box = region.fresh[v]
            parts = [(part, tensor) for u, part, tensor in given if u == v]
            if area(box):
                try:
                    made = _vertex(program, v, box, held, dtype)
                except (RuntimeError, ValueError, TypeError) as error:
                    raise ComputeError(f"a tile of {graph[v].name!r} (vertex {v}) of {graph.name!r} failed: {error}") from error
                if box == region.held[v]:
                    held[v] = made, box
                else:
                    held[v] = patch(graph, v, region.held[v], [(box, made), *parts]), region.held[v]
            elif area(region.held[v]):
                held[v] = patch(graph, v, region.held[v], parts), region.held[v]
            for i, (u, part) in enumerate(keep):
                if u == v:
                    kept[i] = _cut(*held[v], part).contiguous().clone()
            for u in graph[v].inputs:
                if last[u] == v:
                    held.pop(u, None)
    return held[vertices[-1]][0], [kept[i] for i in range(len(keep))]


def assemble(program: Program, vertex: int, boxes: Sequence[Box], tiles: Sequence[Tensor]) -> Tensor:
    """The whole map of a vertex from its tiles. Raises ComputeError unless they fit and cover every position once."""
    shape = program.graph[vertex].output_shape
    label = f"tiles of {program.graph[vertex].name!r} (vertex {vertex})"
    if not tiles or len(boxes) != len(tiles) or sum(area(box) for box in boxes) != shape[-2] * shape[-1]:
        raise ComputeError(f"{label} do not cover its {shape[-2]}x{shape[-1]} map exactly")
    whole = torch.empty(shape, dtype=tiles[0].dtype)
    for box, tile in zip(boxes, tiles, strict=True):
        if not area(box):
            continue
        if tuple(tile.shape) != (*shape[:2], *_sizes(box)):
            raise ComputeError(f"{label}: one has shape {tuple(tile.shape)} where {(*shape[:2], *_sizes(box))} is due")
        (top, bottom), (left, right) = box
        whole[..., top:bottom, left:right] = tile
    return whole


def patch(graph: LayerGraph, vertex: int, region: Box, parts: Sequence[tuple[Box, Tensor]]) -> Tensor:
    """A region of a vertex's map from tensors that hold parts of it (which may overlap, and reach beyond it), in memory of its
    own. Raises ComputeError where they leave something of the region out."""
    rows, columns = _sizes(region if area(region) else NOTHING)
    shape = (*graph[vertex].output_shape[:-2], rows, columns)
    made = torch.empty(shape, dtype=parts[0][1].dtype if parts else torch.float32)
    missing = torch.ones((rows, columns), dtype=torch.bool)
    (top, _), (left, _) = region
    for box, tensor in parts:
        common = intersection(box, region)
        if area(common):
            rows_here, columns_here = (slice(a - start, z - start) for (a, z), start in zip(common, (top, left), strict=True))
            made[..., rows_here, columns_here] = _cut(tensor, box, common)
            missing[rows_here, columns_here] = False
    if missing.any():
        raise ComputeError(f"parts of {graph[vertex].name!r} (vertex {vertex}) leave some of rows and columns {region} out")
    return made


def _vertex(program: Program, v: int, box: Box, held: Mapping[int, tuple[Tensor, Box]], dtype: torch.dtype) -> Tensor:
    """Region `box` of vertex v's map from the regions of its inputs that are held (which may be larger than needed)."""
    graph, code = program.graph, program.codes[v]
    vertex = graph[v]
    spatial = vertex.spatial
    if spatial is None:
        raise ComputeError(f"{vertex.name!r} (vertex {v}) cannot be computed in tiles")
    if spatial.kind != "window":
        given = [_cut(*held[u], box) for u in vertex.inputs]
        return run(code, given, program.constants)
    (producer,) = vertex.inputs
    rows, columns = graph[producer].rows, graph[producer].columns
    wanted = unclipped(spatial, 0, box[0]), unclipped(spatial, 1, box[1])
    there = needed(spatial, box, rows, columns)
    if area(there):
        region = _cut(*held[producer], there)
        margins = (there[1][0] - wanted[1][0], wanted[1][1] - there[1][1], there[0][0] - wanted[0][0], wanted[0][1] - there[0][1])
    else:  # it reads nothing but padding
        region = torch.empty((*graph[producer].output_shape[:2], 0, 0), dtype=dtype)
        margins = (0, wanted[1][1] - wanted[1][0], 0, wanted[0][1] - wanted[0][0])
    head = _window(code, spatial, box, (rows, columns), region, margins, program.constants)
    return run(code, (), program.constants, head=head)


def _window(
    code: Code,
    spatial: Spatial,
    box: Box,
    size: Pair,
    region: Tensor,
    margins: tuple[int, int, int, int],
    constants: Mapping[str, Tensor],
) -> Tensor:
    """The first instruction of a window vertex; `margins` (left, right, top, bottom) of the region lie outside the map."""
    head = code[0]
    name = base_name(head)
    if name == "conv2d":
        return _convolve(head, spatial, region, margins, constants)
    if name == "max_pool2d":
        region = _bordered(region, margins, float("-inf"))
        return F.max_pool2d(region, spatial.kernel, spatial.stride, 0, spatial.dilation)
    if name == "avg_pool2d":
        return _average(head, spatial, box, size, _bordered(region, margins, 0.0))
    padding = constant_padding(head)
    assert padding is not None, name
    return _bordered(region, margins, padding[1]).clone()


def _convolve(
    head: Instruction, spatial: Spatial, region: Tensor, margins: tuple[int, int, int, int], constants: Mapping[str, Tensor]
) -> Tensor:
    weight, bias = (
        constants[a.name] if isinstance(a, Constant) else None for a in (head.argument("weight"), head.argument("bias"))
    )
    assert weight is not None
    left, right, top, bottom = margins
    own = (top if top == bottom else 0, left if left == right else 0)  # the kernel pads equal margins without a copy
    rest = (left - own[1], right - own[1], top - own[0], bottom - own[0])
    region = _bordered(region, rest, 0.0)
    return F.conv2d(region, weight, bias, spatial.stride, own, spatial.dilation, int(head.argument("groups")))


def _average(head: Instruction, spatial: Spatial, box: Box, size: Pair, region: Tensor) -> Tensor:
    """Sums over the windows, divided as torch would divide in the whole map: by what it counts at each border."""
    divisor = head.argument("divisor_override")
    if divisor:
        return F.avg_pool2d(region, spatial.kernel, spatial.stride, divisor_override=int(divisor))
    include = bool(head.argument("count_include_pad"))
    padding = pair(head.argument("padding"))
    counts = [_counts(spatial, axis, box[axis], size[axis], padding[axis], include) for axis in (0, 1)]
    if all(n == spatial.kernel[axis] for axis in (0, 1) for n in counts[axis]):
        return F.avg_pool2d(region, spatial.kernel, spatial.stride)
    sums = F.avg_pool2d(region, spatial.kernel, spatial.stride, divisor_override=1)
    rows, columns = (torch.tensor(c, dtype=region.dtype) for c in counts)
    return sums / (rows[:, None] * columns[None, :])


def _counts(spatial: Spatial, axis: int, span: Pair, length: int, padding: int, include: bool) -> list[int]:
    """How many positions along an axis every window of `span` counts: within the padded map, or within the map alone."""
    counts = []
    for place in range(*span):
        start = place * spatial.stride[axis] - padding
        end = min(start + spatial.kernel[axis], length + padding)
        counts.append(end - start if include else max(0, min(end, length) - max(start, 0)))
    return counts


def _bordered(region: Tensor, margins: tuple[int, int, int, int], value: float) -> Tensor:
    return F.pad(region, margins, value=value) if any(margins) else region


def _cut(tensor: Tensor, have: Box, want: Box) -> Tensor:
    """Region `want` of a tensor that holds region `have` of the same map."""
    if have == want:
        return tensor
    (top, bottom), (left, right) = ((w[0] - h[0], w[1] - h[0]) for h, w in zip(have, want, strict=True))
    return tensor[..., top:bottom, left:right]


def _sizes(box: Box) -> Pair:
    return max(0, box[0][1] - box[0][0]), max(0, box[1][1] - box[1][0])
