"""Reuse of overlaps loses nothing: whatever subset of a tile's neighbours is there, its tile is the whole map's, and its work
shrinks by what it was given."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_blocks import Pools, Residual
from planner_problems import spatial_graph
from torch import Tensor, nn

from d3node.capture import capture
from d3node.graph import LayerGraph
from d3node.intervals import Box, area, grid_boxes, intersection, reverse
from d3node.model import Model
from d3node.plan import Stack, Tile
from d3node.pool import Deal, Geometry, Pool
from d3node.reuse import partial, trimmed
from d3node.stacks import maximal_stacks, stacks
from d3node.tiles import patch
from d3node.verify import Reference

SEEDS = st.integers(min_value=0, max_value=1 << 30)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def stack_of(graph: LayerGraph, vertices: Sequence[int], grid: tuple[int, int], **how: bool) -> Stack:
    output = graph[vertices[-1]]
    boxes = grid_boxes(output.rows, output.columns, [1.0] * grid[0], [1.0] * grid[1])
    return Stack(tuple(vertices), grid, tuple(Tile(f"e{i + 1}", *box) for i, box in enumerate(boxes)), **how)


def run_deal(model: Model, geometry: Geometry, deal: Deal[Tensor], tensors: dict[int, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What a host does with a tile, without messages."""
    graph = model.graph
    region = deal.region
    pieces = [patch(graph, u, box, [(((0, graph[u].rows), (0, graph[u].columns)), tensors[u])]) for u, box in region.read.items()]
    used = [(v, box, patch(graph, v, box, [(b, t) for u, b, t in deal.given if u == v])) for v, box in region.used]
    return model.run_partial(geometry.stack.vertices, region, pieces, used, [(k.vertex, k.box) for k in deal.keep])


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_a_tile_without_given_parts_is_the_reverse_tile(seed: int) -> None:
    rng = random.Random(seed)
    graph = spatial_graph(rng, rng.randint(1, 4), side=24)
    vertices = rng.choice(stacks(graph, max_inputs=None))
    output = graph[vertices[-1]]
    box = rng.choice([b for b in grid_boxes(output.rows, output.columns, [1, 2], [3, 1, 1]) if area(b)])
    region, plain = partial(graph, vertices, box), reverse(graph, vertices, box)
    assert region.fresh == region.held == plain.produced
    assert (region.read, region.used) == (plain.read, ())


@given(
    rest=st.tuples(*[st.tuples(st.integers(0, 6), st.integers(1, 7))] * 2),
    part=st.tuples(*[st.tuples(st.integers(0, 9), st.integers(0, 9))] * 2),
)
def test_trimming_takes_a_part_off_one_side_or_leaves_it_alone(rest: tuple[Box, Box], part: tuple[Box, Box]) -> None:
    whole = tuple((a, a + n) for a, n in rest)
    offered = tuple((min(p), max(p)) for p in part)
    left, taken = trimmed(whole, offered)  # type: ignore[arg-type]
    assert area(left) + area(taken) == area(whole)  # type: ignore[arg-type]
    assert not area(intersection(left, taken))
    assert intersection(taken, offered) == taken or not area(taken)  # type: ignore[arg-type]


@pytest.mark.parametrize(("module", "grid"), [(Residual, (3, 3)), (Residual, (2, 4)), (Pools, (3, 2))])
@pytest.mark.parametrize("seed", range(4))
def test_tiles_that_reuse_overlaps_give_the_whole_map(module: type[nn.Module], grid: tuple[int, int], seed: int) -> None:
    """Tiles end in any order, also long after their neighbours began; every one is exact, and nothing is asked for twice."""
    torch.manual_seed(seed)
    made: nn.Module = module()
    model = Model(capture(made, made.input_shape, "m"))  # type: ignore[arg-type]
    reference = Reference(model)
    vertices = max(maximal_stacks(model.graph, max_inputs=None), key=len)
    assert len(vertices) > 1
    rng = random.Random(seed)
    geometry = Geometry(model.graph, stack_of(model.graph, vertices, grid, stealing=True, reuse=True))
    pool: Pool[Tensor] = Pool(geometry)
    flying: list[tuple[Deal[Tensor], list[Tensor]]] = []
    fresh = alone = reused = 0
    while pool.has("e1") or flying:
        if pool.has("e1") and (not flying or rng.random() < 0.5):
            deal = pool.take("e1")
            assert deal is not None
            tile, kept = run_deal(model, geometry, deal, reference.values)
            (top, bottom), (left, right) = geometry.box(deal.tile)
            expected = reference.values[vertices[-1]][..., top:bottom, left:right]
            assert (tile - expected).abs().max() <= 1e-5 * expected.abs().max()
            fresh += sum(deal.region.positions().values())
            alone += sum(geometry.region(deal.tile).positions().values())
            reused += bool(deal.region.used)
            flying.append((deal, kept))
        else:
            pool.returned(*flying.pop(rng.randrange(len(flying))))
    assert fresh < alone
    assert reused


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, data=st.data())
def test_in_checkerboard_order_the_first_colour_needs_nobody_and_the_second_everybody(seed: int, data: st.DataObject) -> None:
    rng = random.Random(seed)
    graph = spatial_graph(rng, 3, side=48)
    vertices = max(maximal_stacks(graph, max_inputs=None), key=len)
    grid = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    geometry = Geometry(graph, stack_of(graph, vertices, grid, stealing=True, reuse=True))
    pool: Pool[None] = Pool(geometry)
    held = {}
    while (deal := pool.take("e1")) is not None:
        second = sum(divmod(deal.tile, grid[1])) % 2
        assert second or not deal.given
        around = [held[t] for t in geometry.neighbours(deal.tile) if t in held]
        assert not second or len(around) == len(geometry.neighbours(deal.tile))
        for v, box in deal.region.fresh.items():
            if v != vertices[-1] and area(box):
                for region in around if second else ():
                    assert not area(intersection(box, region.held[v])), "computed although a neighbour has it"
        held[deal.tile] = deal.region
        pool.returned(deal, [None] * len(deal.keep))


def test_without_stealing_a_host_gets_only_its_own_tiles() -> None:
    graph = spatial_graph(random.Random(3), 2)
    vertices = maximal_stacks(graph, max_inputs=None)[0]
    geometry = Geometry(graph, stack_of(graph, vertices, (2, 2), reuse=True))
    pool: Pool[None] = Pool(geometry)
    taken = {host: pool.take(host) for host in ("e1", "e2", "e3", "e4", "e5")}
    assert {host: deal and deal.tile for host, deal in taken.items()} == {"e1": 0, "e2": 1, "e3": 2, "e4": 3, "e5": None}
    assert not pool.has("e1")
