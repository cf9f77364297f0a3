"""The check of losslessness takes any model that can be captured: several outputs, indices, other types, nothing to tile."""

from __future__ import annotations

import pytest
import torch
from model_blocks import Everywhere, Residual
from torch import nn

from d3node.capture import capture
from d3node.model import Model, ModelSpec, load_graph
from d3node.verify import Reference, check_tiles, main, tile_cases, verify


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_any_answer_can_be_checked() -> None:
    graph = load_graph(ModelSpec("model_blocks:Everywhere"))
    assert len(graph) == 4  # the branch that leads nowhere is gone
    assert graph.outputs == (0, 1, 2, 3)
    findings = {finding.check: finding for finding in verify(ModelSpec("model_blocks:Everywhere"), True)}
    assert [name for name, finding in findings.items() if finding.failures] == []
    assert findings["captured against original"].worst == 0.0
    assert findings["tiles, float32"].count == 4


@pytest.mark.parametrize(("dtype", "name"), [(torch.float64, "float64"), (torch.float16, "float16")])
def test_files_of_other_types_are_checked_in_theirs(dtype: torch.dtype, name: str, tmp_path: object) -> None:
    path = f"{tmp_path}/net.pt2"
    module, x = Residual().eval().to(dtype), torch.zeros(Residual.input_shape, dtype=dtype)
    torch.export.save(torch.export.export(module, (x,), strict=False), path)
    findings = list(verify(ModelSpec(path), False))
    assert [finding.check for finding in findings if finding.failures] == []
    assert f"tiles, {name}" in [finding.check for finding in findings]


def test_a_model_with_nothing_to_tile_is_checked_in_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("model_blocks.failing", lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)))
    assert main(["model_blocks:failing?input=1x6"]) == 0
    assert "three-way assignments" in capsys.readouterr().out


def test_a_wrong_map_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Reference(Model(capture(Everywhere().eval(), Everywhere.input_shape, "everywhere")))
    cases = list(tile_cases(whole.graph, None))
    assert cases
    right = whole.model.run_tile
    monkeypatch.setattr(whole.model, "run_tile", lambda *arguments: right(*arguments) * 1.01)
    assert len(check_tiles(whole, cases).failures) == len(cases)
