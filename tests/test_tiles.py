"""Tiles lose nothing: any grid over any stack of spatial operators gives the whole map, border rules included."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from model_blocks import Pools, Residual
from torch import Tensor, nn

from d3node import tiles
from d3node.capture import capture
from d3node.errors import ComputeError
from d3node.intervals import Box, grid_boxes
from d3node.model import Model
from d3node.stacks import maximal_stacks, stacks
from d3node.verify import Reference, check_tiles, tile_cases


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def reference(module: nn.Module, shape: tuple[int, ...]) -> Reference:
    """All tensors of a small model with random weights, in float64."""
    return Reference(Model(capture(module, shape, type(module).__name__)).to(torch.float64))


SIDES = st.tuples(st.integers(1, 11), st.integers(1, 11))


class Branches(nn.Module):
    """Branches of one input joined by add or concat (the geometry keeps their sizes equal)."""

    def __init__(self, branches: list[nn.Module], join: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        if self.join == "cat":
            return torch.cat(maps, 1)
        total = maps[0]
        for other in maps[1:]:
            total = total + other
        return total + x if maps[0].shape == x.shape else total


@st.composite
def layers(draw: st.DrawFn, channels: int) -> tuple[nn.Module, int]:
    """A random spatial layer or block for this many channels, and how many channels it yields."""
    kind = draw(st.sampled_from(["conv", "conv", "conv", "max", "avg", "pad", "residual", "inception", "norm"]))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    if kind == "conv":
        kernel = draw(st.one_of(SIDES, st.sampled_from([(1, 7), (7, 1), (3, 3), (1, 1)])))
        groups = draw(st.sampled_from([1, 2, channels])) if channels % 2 == 0 else 1
        dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        bias = draw(st.booleans())
        if draw(st.booleans()):
            return nn.Conv2d(channels, channels, kernel, 1, "same", dilation, groups, bias), channels
        padding = draw(st.tuples(st.integers(0, 7), st.integers(0, 7)))
        conv = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups, bias)
        return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)), channels
    if kind in ("max", "avg"):
        kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
        padding = (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2)))
        ceil = draw(st.booleans())
        if kind == "max":
            return nn.MaxPool2d(kernel, stride, padding, draw(st.integers(1, 2)), ceil_mode=ceil), channels
        divisor = draw(st.sampled_from([None, None, 3]))
        return nn.AvgPool2d(kernel, stride, padding, ceil, draw(st.booleans()), divisor), channels
    if kind == "pad":
        widths = draw(st.tuples(*[st.integers(0, 3)] * 4))
        return nn.ConstantPad2d(widths, draw(st.sampled_from([0.0, 1.5]))), channels
    if kind == "norm":
        return nn.Sequential(nn.LocalResponseNorm(3), nn.SiLU()), channels
    sides = [2 * draw(st.integers(0, 3)) + 1 for _ in range(3)]
    chain: list[nn.Module] = [nn.Conv2d(channels, channels, (a, b), padding=(a // 2, b // 2)) for a, b in pairwise(sides)]
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=draw(st.booleans()))
    if kind == "residual":
        return Branches([nn.Sequential(*chain, nn.LeakyReLU(0.1)), nn.Conv2d(channels, channels, 1)], "add"), channels
    return Branches([nn.Sequential(*chain), pool, nn.Conv2d(channels, 2, (1, 7), padding=(0, 3))], "cat"), 2 * channels + 2


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A random stack of one to four layers, seeded, and an input shape."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    channels = draw(st.sampled_from([1, 2, 4]))
    shape = (1, channels, draw(st.integers(4, 40)), draw(st.integers(4, 40)))
    chain = []
    for _ in range(draw(st.integers(1, 4))):
        layer, channels = draw(layers(channels))
        chain.append(layer)
    return nn.Sequential(*chain).eval(), shape


def check_random_stack(network: tuple[nn.Module, tuple[int, ...]], data: st.DataObject) -> None:
    """One stack of a random network in one random grid."""
    module, shape = network
    try:
        with torch.inference_mode():
            size = module(torch.zeros(shape)).shape
    except RuntimeError:  # a window larger than its map
        assume(False)
    assume(size.numel() > 0)
    whole = reference(module, shape)
    assume(not any(tensor.isnan().any() for tensor in whole.values.values()))  # infinities of the pools below, multiplied
    grid = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stack = data.draw(st.sampled_from([*maximal_stacks(whole.graph), *stacks(whole.graph)]))
    finding = check_tiles(whole, [(stack, grid)])
    assert finding.count == 1
    assert finding.failures == []


UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(UNHURRIED, max_examples=20)
@given(network=networks(), data=st.data())
def test_random_stacks_in_random_grids(network: tuple[nn.Module, tuple[int, ...]], data: st.DataObject) -> None:
    check_random_stack(network, data)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(UNHURRIED, max_examples=150)
@given(network=networks(), data=st.data())
def test_many_random_stacks_in_random_grids(network: tuple[nn.Module, tuple[int, ...]], data: st.DataObject) -> None:
    check_random_stack(network, data)


@pytest.mark.parametrize("module", [Pools(), Residual()], ids=["pools", "residual"])
def test_every_stack_and_every_uneven_cut(module: nn.Module) -> None:
    whole = reference(module, module.input_shape)  # type: ignore[arg-type]
    assert check_tiles(whole, tile_cases(whole.graph, None, ((1, 2), (3, 3), (7, 1), (40, 2)))).failures == []
    stack = maximal_stacks(whole.graph, max_inputs=None)[0]
    output = whole.graph[stack[-1]]
    boxes = grid_boxes(output.rows, output.columns, [5, 0, 1, 2], [1, 3])
    made = [whole.model.run_tile(stack, b, whole.model.tile_pieces(stack, b, whole.values)) for b in boxes]
    assert any(tile.numel() == 0 for tile in made)
    found = whole.model.assemble(stack[-1], boxes, made)
    assert torch.allclose(found, whole.values[stack[-1]], rtol=0, atol=1e-12)


def test_a_tile_that_reads_only_padding() -> None:
    module = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 3, 3, padding=6), nn.ConstantPad2d((5, 0, 0, 5), 2.0)).eval()
    whole = reference(module, (1, 2, 7, 7))
    last = len(whole.graph) - 1
    stack = tuple(range(1, last + 1))
    rows, columns = whole.graph[last].rows, whole.graph[last].columns
    boxes = grid_boxes(rows, columns, [1] * rows, [1] * columns)
    pieces = [whole.model.tile_pieces(stack, box, whole.values) for box in boxes]
    assert any(piece[0].numel() == 0 for piece in pieces)
    made = [whole.model.run_tile(stack, box, piece) for box, piece in zip(boxes, pieces, strict=True)]
    found = whole.model.assemble(last, boxes, made)
    assert torch.allclose(found, whole.values[last], rtol=0, atol=1e-12)


def test_a_dilated_max_pooling_that_meets_only_padding() -> None:
    """Found by the property test: the whole map is minus infinity there, and so is the tile."""
    module = nn.Sequential(nn.MaxPool2d((5, 1), 1, 0, 2), nn.MaxPool2d((2, 1), 1, (1, 0), 2)).eval()
    whole = reference(module, (1, 1, 9, 4))
    assert bool((whole.values[2] == -torch.inf).all())
    assert check_tiles(whole, [((1, 2), (1, 1)), ((1, 2), (1, 3)), ((2,), (1, 2))]).failures == []


def test_the_check_notices_a_wrong_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reference(nn.Sequential(nn.Conv2d(1, 1, 3)), (1, 1, 9, 9))
    right = whole.model.run_tile
    for bad in (torch.inf, torch.nan):
        monkeypatch.setattr(whole.model, "run_tile", lambda *a, bad=bad: right(*a).clone().fill_(bad))
        assert len(check_tiles(whole, [((1,), (2, 2))]).failures) == 1


def test_pieces_are_contiguous_and_no_larger_than_needed() -> None:
    whole = reference(Residual(), Residual.input_shape)
    box: Box = ((0, 2), (0, 3))
    (piece,) = whole.model.tile_pieces((1,), box, whole.values)
    assert piece.is_contiguous()
    assert piece.shape == (1, 3, 2 * 1 + 4, 2 * 2 + 4)  # rows -3..5 and columns -3..7, as far as they exist
    assert torch.equal(piece, whole.values[0][..., :6, :8])


def test_the_check_notices_a_wrong_border(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reference(Pools(), Pools.input_shape)
    right = tiles._bordered

    def wrong(region: Tensor, margins: tuple[int, int, int, int], value: float) -> Tensor:
        return right(region, margins, 0.0)  # max pooling of negative values must not see zeros

    cases = [(stack, (2, 2)) for stack in stacks(whole.graph)]
    assert check_tiles(whole, cases).failures == []
    monkeypatch.setattr(tiles, "_bordered", wrong)
    assert check_tiles(whole, cases).failures != []


def test_bad_tiles_are_refused_in_words() -> None:
    whole = reference(Residual(), Residual.input_shape)
    model = whole.model
    box: Box = ((0, 2), (0, 3))
    pieces = model.tile_pieces((1,), box, whole.values)
    with pytest.raises(ComputeError, match="got 2 pieces instead of 1"):
        model.run_tile((1,), box, [*pieces, *pieces])
    with pytest.raises(ComputeError, match="a piece of 'input'"):
        model.run_tile((1,), box, [pieces[0][..., 1:]])
    with pytest.raises(ComputeError, match="do not cover"):
        model.assemble(1, [box], [model.run_tile((1,), box, pieces)])
    with pytest.raises(ComputeError, match="need the tensor of vertex 0"):
        model.tile_pieces((1,), box, {})
