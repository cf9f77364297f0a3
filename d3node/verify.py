"""Check that decomposition loses nothing: parts against the whole model bit for bit, tiles within a stated tolerance.

`python -m d3node.verify MODEL... [--all]` prints a table and exits with 1 where a promise is broken; tests use the functions.
What is checked is `d3node.parts` and `d3node.tiles`; references are the whole model's own tensors, and the
original module's answer.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from d3node import zoo
from d3node.errors import NodeError
from d3node.graph import INPUT, LayerGraph, Pair
from d3node.intervals import grid_boxes
from d3node.model import Model, ModelSpec, load_model
from d3node.stacks import stacks

if TYPE_CHECKING:
    from typing import TextIO

GRIDS: tuple[Pair, ...] = ((1, 2), (2, 2), (3, 3), (1, 4))
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest allowed deviation of a tiled map, relative to the map's largest magnitude (half precision: about four roundings)."""
DEPTHS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)


@dataclass
class Finding:
    """Outcome of one kind of check: how many were made, the worst relative deviation, and the failed ones in words."""

    check: str
    count: int
    worst: float
    failures: list[str]
    seconds: float = 0.0


class Reference:
    """All tensors of one whole-model run."""

    def __init__(self, model: Model, seed: int = 0) -> None:
        self.model = model
        self.graph = model.graph
        self.values: dict[int, Tensor] = {INPUT: model.input_of(model.image(seed))}
        self.answer = model.whole(self.values[INPUT])
        for v in range(1, len(self.graph)):
            self.values.update(model.run_part((v,), self.values))


def check_vertices(reference: Reference) -> Finding:
    """Every vertex as a part of its own: the answers that come out at the end are the whole model's, bit for bit."""
    finding = Finding("each vertex a part", len(reference.graph) - 1, 0.0, [])
    for v, expected in zip(reference.graph.outputs, reference.answer, strict=True):
        if not torch.equal(reference.values[v], expected):
            finding.failures.append(f"output {v}")
    return finding


def check_module(reference: Reference, module: nn.Module) -> Finding:
    """The captured model against the module that it was captured from: within TOLERANCE.

    The deviation is 0 unless the module passes tensors of unusual layout (permuted, say) from one vertex to the next, which
    between vertices are made contiguous, and kernels round differently on those.
    """
    with torch.inference_mode():
        expected = module(reference.values[INPUT])
    expected = tree_leaves(expected)
    finding = Finding("captured against original", 1, 0.0, [])
    finding.worst = max(_relative(a, b) for a, b in zip(reference.answer, expected, strict=True))
    if not finding.worst <= TOLERANCE[reference.model.dtype]:
        finding.failures.append(f"answers differ by {finding.worst:.1e}")
    return finding


def check_assignments(reference: Reference, assignments: Iterable[Sequence[int]], name: str) -> Finding:
    """Parts by rank, run in ascending rank and fed only what lower ranks made: answers equal the whole model's bit for bit.

    An assignment has a rank for every vertex, never falling along an edge.
    """
    finding = Finding(name, 0, 0.0, [])
    for ranks in assignments:
        finding.count += 1
        crossing = {INPUT: reference.values[INPUT]}
        for rank in sorted(set(ranks)):
            part = [v for v in range(1, len(ranks)) if ranks[v] == rank]
            if part:
                inputs = reference.graph.boundary(part)[0]
                crossing.update(reference.model.run_part(part, {u: crossing[u].clone() for u in inputs}))
        for v, expected in zip(reference.graph.outputs, reference.answer, strict=True):
            if not torch.equal(crossing[v], expected):
                finding.failures.append(f"ranks {''.join(map(str, ranks))}: output {v}")
    return finding


def cuts(graph: LayerGraph) -> Iterator[list[int]]:
    """Every cut of the topological order, as ranks 0 and 1."""
    for position in range(len(graph)):
        yield [int(v > position) for v in range(len(graph))]


def random_assignments(graph: LayerGraph, count: int, seed: int = 0) -> Iterator[list[int]]:
    """Random legal three-way assignments: ranks 0, 1, 2 that never fall along an edge, the input at 0.

    Every vertex draws its wish with odds that move with its place, so that all three parts are usually there and ragged.
    """
    source = random.Random(seed)
    for _ in range(count):
        first, second = sorted((source.random(), source.random()))
        ranks = [0]
        for vertex in list(graph)[1:]:
            place = vertex.index / len(graph) + source.uniform(-0.15, 0.15)
            ranks.append(max(*(ranks[u] for u in vertex.inputs), int(place > first) + int(place > second)))
        yield ranks


def check_tiles(
    reference: Reference,
    cases: Iterable[tuple[tuple[int, ...], Pair]],
    name: str = "tiles",
    answers: bool = True,
) -> Finding:
    """Stacks in tiles: the assembled map within TOLERANCE of the whole one and, with `answers`, the same top 5 in the end."""
    model, graph = reference.model, reference.graph
    finding = Finding(name, 0, 0.0, [])
    for vertices, grid in cases:
        finding.count += 1
        label = f"{graph[vertices[0]].name}..{graph[vertices[-1]].name} as {grid[0]}x{grid[1]}"
        output = vertices[-1]
        boxes = grid_boxes(graph[output].rows, graph[output].columns, [1.0] * grid[0], [1.0] * grid[1])
        tiles = [model.run_tile(vertices, box, model.tile_pieces(vertices, box, reference.values)) for box in boxes]
        whole = model.assemble(output, boxes, tiles)
        expected = reference.values[output]
        deviation = _relative(whole, expected)
        finding.worst = max(finding.worst, deviation)
        if not deviation <= TOLERANCE[expected.dtype]:
            finding.failures.append(f"{label}: {deviation:.1e}")
        elif answers and not _same_answer(reference, {**reference.values, output: whole}, output):
            finding.failures.append(f"{label}: another answer")
    return finding


def tile_cases(graph: LayerGraph, per_depth: int | None, grids: Sequence[Pair] = GRIDS) -> Iterator[tuple[tuple[int, ...], Pair]]:
    """Candidate stacks with every grid: all of them, or of every depth in DEPTHS (and of the deepest) some, spread evenly."""
    candidates = stacks(graph)
    if per_depth is not None:
        deepest = max((len(s) for s in candidates), default=0)
        chosen: list[tuple[int, ...]] = []
        for depth in sorted({deepest, *(d for d in DEPTHS if d < deepest)}):
            same = [s for s in candidates if len(s) == depth]
            chosen += [same[i * len(same) // per_depth] for i in range(per_depth)] if len(same) > per_depth else same
        candidates = chosen
    for vertices in candidates:
        for grid in grids:
            yield vertices, grid


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest deviation relative to the largest finite magnitude expected.

    Infinities must be the same in the same places (a dilated max pooling whose window meets only padding yields minus
    infinity); a NaN anywhere is an infinite deviation.
    """
    if not expected.is_floating_point():  # indices, masks
        return 0.0 if torch.equal(found, expected) else math.inf
    odd = ~expected.isfinite()
    if found.isnan().any() or expected.isnan().any() or not torch.equal(found[odd], expected[odd]):
        return math.inf
    found, expected = found[~odd], expected[~odd]
    if not expected.numel():
        return 0.0
    scale = float(expected.abs().max())
    return float((found - expected).abs().max()) / (scale or 1.0)


def _same_answer(reference: Reference, values: Mapping[int, Tensor], changed: int) -> bool:
    """Run what depends on a changed tensor and compare the answers: the five best classes of scores, other maps by value."""
    graph = reference.graph
    behind = {changed}
    for v in range(changed + 1, len(graph)):
        if behind.intersection(graph[v].inputs):
            behind.add(v)
    rest = sorted(behind - {changed})
    final = {**values, **reference.model.run_part(rest, values)} if rest else values
    for v, expected in zip(graph.outputs, reference.answer, strict=True):
        if not expected.is_floating_point():
            continue  # an index can jump by any amount where two values are nearly equal
        if expected.dim() != 2:
            if not _relative(final[v], expected) <= 10 * TOLERANCE[expected.dtype]:
                return False
            continue
        count = min(5, expected.numel())
        if not torch.equal(final[v].flatten().topk(count).indices, expected.flatten().topk(count).indices):
            return False
    return True


def verify(spec: ModelSpec, everything: bool) -> Iterator[Finding]:
    """All checks of one model, one finding after the other. Raises ModelError and ComputeError."""
    model = load_model(spec)
    own = str(model.dtype).removeprefix("torch.")
    single = Reference(model)
    graph = model.graph
    step = 1 if everything else max(1, len(graph) // 12)
    per_depth = None if everything else 3
    checks: list[Callable[[], Finding]] = [
        lambda: check_vertices(single),
        lambda: check_assignments(single, islice(cuts(graph), 0, None, step), "cuts"),
        lambda: check_assignments(single, random_assignments(graph, 200 if everything else 10), "three-way assignments"),
        lambda: check_tiles(single, tile_cases(graph, per_depth), f"tiles, {own}"),
    ]
    if model.dtype != torch.float64:
        checks.append(lambda: check_tiles(Reference(model.to(torch.float64)), tile_cases(graph, per_depth), "tiles, float64"))
    original = zoo.load(spec.source, spec.seed, spec.weights).model
    module = original if isinstance(original, nn.Module) else original.module()
    checks.insert(0, lambda: check_module(single, module))
    for check in checks:
        start = time.perf_counter()
        finding = check()
        finding.seconds = time.perf_counter() - start
        yield finding


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Entry point. Returns 0 when every promise holds, 1 when one is broken, 2 for a model that cannot be loaded."""
    parser = argparse.ArgumentParser(prog="python -m d3node.verify", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help=f"{', '.join(zoo.ZOO)}, module:factory, file.py:factory, or a .pt2 file",
    )
    parser.add_argument("--all", action="store_true", help="every cut, 200 assignments, every candidate stack (slow)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights")
    parser.add_argument("--weights", help="real weights, a .safetensors file")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    failed, out = False, out or sys.stdout
    width = max(len(source) for source in ("model", *options.models)) + 2
    print(f"{'model':<{width}}{'check':<28}{'count':>7}{'failed':>8}{'worst':>10}{'seconds':>10}", file=out)
    for source in options.models:
        try:
            for finding in verify(ModelSpec(source, options.seed, options.weights), options.all):
                failed = failed or bool(finding.failures)
                print(
                    f"{source:<{width}}{finding.check:<28}{finding.count:>7}{len(finding.failures):>8}"
                    f"{finding.worst:>10.1e}{finding.seconds:>10.1f}",
                    *(f"\n    {text}" for text in finding.failures[:5]),
                    file=out,
                    flush=True,
                )
        except NodeError as error:
            print(f"{source}: {error}", file=sys.stderr)
            return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
