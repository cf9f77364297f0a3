"""A captured model computes exactly what its module computes, and its graph tells the truth about it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from model_blocks import Aliases, Gate, Pools, Residual
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from d3node.capture import capture, from_exported
from d3node.errors import ModelError
from d3node.graph import LayerGraph
from d3node.model import Model


def captured(module: nn.Module, seed: int = 0) -> tuple[Model, Tensor, tuple[Tensor, ...]]:
    """The captured model, an input, and the module's own answer to it."""
    shape = module.input_shape
    assert isinstance(shape, tuple)
    model = Model(capture(module, shape, type(module).__name__))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        answer = module(x.clone())
    return model, x, answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize(
    "module",
    [Residual(), Pools(), Aliases(True), Aliases(False), Gate()],
    ids=["residual", "pools", "alias-view", "alias-self", "gate"],
)
def test_answers_equal_the_modules_bit_for_bit(module: nn.Module) -> None:
    model, x, expected = captured(module)
    answer = model.whole(x)
    assert len(answer) == len(expected)
    for found, wanted in zip(answer, expected, strict=True):
        assert torch.equal(found, wanted)


def test_cheap_operators_join_their_producer_and_stay_listed() -> None:
    graph = captured(Residual())[0].graph
    assert [v.name for v in graph] == ["input", "stem.0", "a", "b", "shortcut", "add", "pool", "head"]
    stem, add, pool = graph[1], graph[5], graph[6]
    assert [o.target for o in stem.operators] == ["aten.conv2d.default", "aten.batch_norm.default", "aten.relu_.default"]
    assert [o.name for o in stem.operators] == ["stem.0", "stem.1", "stem.2"]
    assert [o.target for o in add.operators] == ["aten.add_.Tensor", "aten.relu_.default"]
    assert add.inputs == (3, 4)
    assert [o.target for o in pool.operators] == ["aten.adaptive_avg_pool2d.default", "aten.flatten.using_ints"]
    assert pool.output_shape == (1, 12)
    assert LayerGraph.from_json(graph.to_json()) == graph


def test_sizes_flops_and_parameters_are_torchs_own() -> None:
    module = Residual()
    model, x, _ = captured(module)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    assert sum(v.flops for v in model.graph) == counter.get_total_flops()
    assert all(v.flops == sum(o.flops for o in v.operators) for v in model.graph)
    counted = list(module.parameters()) + [b for n, b in module.named_buffers() if "running" in n]
    assert sum(v.parameter_bytes for v in model.graph) == sum(t.nbytes for t in counted)
    values = {0: x}
    for vertex in list(model.graph)[1:]:
        values.update(model.run_part((vertex.index,), values))
        assert tuple(values[vertex.index].shape) == vertex.output_shape
        assert values[vertex.index].nbytes == vertex.output_bytes


def test_geometry_of_windows() -> None:
    graph = captured(Residual())[0].graph
    stem, _, same, shortcut = (graph[v].spatial for v in (1, 2, 3, 4))
    assert stem is not None
    assert (stem.kernel, stem.stride, stem.padding) == ((7, 7), (2, 2), (3, 3))
    assert same is not None
    assert (same.padding, same.dilation) == ((2, 2), (2, 2))
    assert shortcut is not None
    assert (shortcut.kernel, shortcut.padding) == ((1, 1), (0, 0))
    assert graph[5].spatial is not None
    assert graph[5].spatial.kind == "add"
    assert graph[6].spatial is None
    assert graph[7].spatial is None


def test_local_response_norm_is_one_pointwise_operator() -> None:
    graph = captured(Pools())[0].graph
    last = graph[len(graph) - 1]
    assert last.operator == "cat"
    assert last.spatial is not None
    assert last.spatial.kind == "concat"
    assert [o.target for o in last.operators][1:] == ["torch.nn.functional.local_response_norm"]


def test_what_mixes_positions_is_not_tileable() -> None:
    graph = captured(Gate())[0].graph
    assert {v.name: v.spatial.kind if v.spatial else None for v in graph} == {
        "input": None,
        "conv": "window",  # with silu and the per-channel scale
        "mean": None,
        "squeeze": "window",
        "mul#2": None,  # the gate is one position, the map many
        "chunk": None,
        "chunk#2": None,
    }
    gate = next(v for v in graph if v.operator == "mul")
    assert gate.spatial is None
    assert len(gate.inputs) == 2


def test_weights_are_shared_not_copied() -> None:
    module = Residual()
    model = captured(module)[0]
    addresses = {t.data_ptr() for t in module.state_dict().values()}
    assert all(t.data_ptr() in addresses for t in model.program.constants.values())


@pytest.mark.parametrize("lowered", [False, True], ids=["as-exported", "decomposed"])
def test_pt2_programs_keep_fusion_and_geometry(lowered: bool, tmp_path: Path) -> None:
    module = Residual().eval()
    model, x, (expected,) = captured(module)
    exported = torch.export.export(module, (x,), strict=False)
    if lowered:
        with warnings.catch_warnings(action="ignore"):  # torch's own, about torch
            exported = exported.run_decompositions()
    again = Model(from_exported(exported, "again"))
    assert torch.allclose(again.whole(x)[0], expected, rtol=1e-5, atol=1e-6)
    assert [v.spatial for v in list(again.graph)[:6]] == [v.spatial for v in list(model.graph)[:6]]


class Dynamic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * self.count


def test_what_cannot_be_captured_is_refused_in_words() -> None:
    with pytest.raises(ModelError, match="'Dynamic' cannot be exported"):
        capture(Dynamic(), (1, 3, 4, 4), "Dynamic")
    with pytest.raises(ModelError, match="writes to one of its buffers"):
        capture(Stateful(), (1, 3, 4, 4), "Stateful")
    with pytest.raises(ModelError, match="input of shape"):
        capture(nn.Conv2d(3, 4, 3), (1, 5, 8, 8), "narrow")
