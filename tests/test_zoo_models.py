"""The five models of the paper, in parts and in tiles, against their own modules: a sample.

The whole set is checked by `python -m d3node.verify MODEL... --all`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from d3node import zoo
from d3node.capture import capture
from d3node.model import Model, ModelSpec, load_graph
from d3node.verify import (
    GRIDS,
    Reference,
    check_assignments,
    check_module,
    check_tiles,
    check_vertices,
    cuts,
    random_assignments,
    tile_cases,
)


@dataclass
class Subject:
    """One model of the zoo, loaded once for all tests of it."""

    name: str
    module: nn.Module
    reference: Reference


LARGE = ("vgg16", "darknet53", "inception_v4")


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in zoo.ZOO])
def subject(request: pytest.FixtureRequest) -> Subject:
    torch.set_num_threads(1)
    loaded = zoo.load(request.param, seed=0, weights=None)
    assert isinstance(loaded.model, nn.Module)
    model = Model(capture(loaded.model, loaded.input_shape, request.param), loaded.normalisation)
    return Subject(request.param, loaded.model, Reference(model))


def test_the_capture_is_the_module(subject: Subject) -> None:
    finding = check_module(subject.reference, subject.module)
    assert finding.failures == []
    assert finding.worst == 0.0
    assert load_graph(ModelSpec(subject.name)) == subject.reference.graph


def test_random_weights_are_numerically_sane(subject: Subject) -> None:
    model, first = subject.reference.model, subject.reference.answer[0]
    second = model.whole(model.input_of(model.image(1)))[0]
    assert first.shape == (1, 1000)
    assert bool(first.isfinite().all())
    assert first.unique().numel() == 1000
    assert float(first.std()) > 0.1
    assert float((first - second).abs().max() / first.abs().max()) > 0.01  # the answer depends on the image


def test_parts_equal_the_whole_bit_for_bit(subject: Subject) -> None:
    reference = subject.reference
    assert check_vertices(reference).failures == []
    order = list(cuts(reference.graph))
    sample = order[len(order) // 6 :: len(order) // 3] + list(random_assignments(reference.graph, 2))
    finding = check_assignments(reference, sample, "sample")
    assert finding.count >= 5
    assert finding.failures == []


def test_tiles_equal_the_whole_within_tolerance(subject: Subject) -> None:
    """Shallow, middle and the deepest stacks, every grid; the shallower ones in float64 too."""
    single = subject.reference
    double = Reference(single.model.to(torch.float64))
    depths = [stack for stack, _ in tile_cases(single.graph, 1, (GRIDS[0],))]
    deepest = depths.pop()
    cases = [(stack, GRIDS[i % len(GRIDS)]) for i, stack in enumerate(depths[:6])]
    assert len({len(stack) for stack, _ in cases}) >= 4
    assert check_tiles(single, [*cases, (deepest, (2, 2))]).failures == []
    assert check_tiles(double, cases[:4]).failures == []
