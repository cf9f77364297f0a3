"""A host computes where it is told to, or says why not; a model on a device gives the answers of one that is not."""

from __future__ import annotations

import itertools

import pytest
import torch

from d3node import accelerator, fingerprint
from d3node.accelerator import GPU_TOLERANCE, PlacedModel
from d3node.graph import INPUT
from d3node.model import Model, ModelSpec, load_model
from d3node.reuse import partial

SMALL = "agent_models:small?input=1x3x64x64"
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.fixture(scope="module")
def small() -> Model:
    return load_model(ModelSpec(SMALL))


def test_a_gpu_that_is_not_there_is_named_and_the_cpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = accelerator.choose("cuda")
    assert (chosen.device, chosen.called) == ("cpu", "cpu")
    assert "a GPU was asked for" in chosen.note
    assert "the CPU computes" in chosen.note
    assert accelerator.choose("cpu").note == ""


def test_a_gpu_computes_without_coarser_number_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    chosen = accelerator.choose("cuda")
    found = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    assert (chosen.device, chosen.called, chosen.note) == ("cuda", "cuda (Some GPU)", "")
    assert found == (False, False)


@pytest.mark.parametrize("device", DEVICES)
def test_parts_tiles_and_the_whole_are_those_of_the_model_itself(small: Model, device: str) -> None:
    placed = PlacedModel(small, device)
    tolerance = 0.0 if device == "cpu" else GPU_TOLERANCE
    x = placed.input_of(placed.image(3))

    def same(a: torch.Tensor, b: torch.Tensor) -> None:
        assert a.device.type == "cpu"
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())

    graph = small.graph
    for ours, theirs in zip(placed.whole(x), small.whole(x), strict=True):
        same(ours, theirs)
    maps = small.run_part(range(1, 3), {INPUT: x})
    for v, tensor in placed.run_part(range(1, 3), {INPUT: x}).items():
        same(tensor, maps[v])
    stack = tuple(itertools.takewhile(lambda v: graph[v].spatial is not None, range(1, len(graph))))
    assert len(stack) >= 4
    rows, columns = graph[stack[-1]].rows, graph[stack[-1]].columns
    boxes = [((0, rows // 2), (0, columns)), ((rows // 2, rows), (0, columns))]
    tiles = [placed.run_tile(stack, box, placed.tile_pieces(stack, box, {INPUT: x})) for box in boxes]
    whole = small.run_part(stack, {INPUT: x})[stack[-1]]
    same(placed.assemble(stack[-1], boxes, tiles), whole)
    region = partial(graph, stack, boxes[0])
    output, kept = placed.run_partial(
        stack, region, [x[..., : region.read[INPUT][0][1], : region.read[INPUT][1][1]]], [], [(1, region.held[1])]
    )
    same(output, tiles[0])
    assert [tensor.device.type for tensor in kept] == ["cpu"]


def test_fingerprints_tell_networks_and_weights_apart_and_names_of_files_not(small: Model) -> None:
    again = load_model(ModelSpec(SMALL))
    other = load_model(ModelSpec(SMALL, seed=1))
    larger = load_model(ModelSpec("agent_models:small?input=1x3x96x96"))
    assert fingerprint.of_model(small) == fingerprint.of_model(again) == fingerprint.of_model(PlacedModel(small, "cpu"))
    assert fingerprint.structure(small.graph) == fingerprint.structure(other.graph)
    assert fingerprint.of_model(small)["weights"] != fingerprint.of_model(other)["weights"]
    assert fingerprint.structure(small.graph) != fingerprint.structure(larger.graph)
    assert small.graph.name != larger.graph.name
    assert fingerprint.of_model(small.graph) == {"structure": fingerprint.structure(small.graph), "weights": None}
