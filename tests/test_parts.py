"""Parts lose nothing: any convex set of vertices, fed with its boundary tensors, equals the whole model bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_blocks import Gate, Pools, Residual

from d3node import verify
from d3node.capture import capture
from d3node.errors import ComputeError
from d3node.graph import INPUT
from d3node.model import Model
from d3node.verify import Reference, check_assignments, cuts, random_assignments


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small(module: torch.nn.Module) -> Reference:
    return Reference(Model(capture(module, module.input_shape, type(module).__name__)))  # type: ignore[arg-type]


SMALL = [small(module) for module in (Residual(), Pools(), Gate())]


@pytest.mark.parametrize("reference", SMALL, ids=lambda r: r.graph.name)
def test_every_cut_of_small_models(reference: Reference) -> None:
    finding = check_assignments(reference, cuts(reference.graph), "cuts")
    assert finding.count == len(reference.graph)
    assert finding.failures == []


@settings(max_examples=40, deadline=None)
@given(which=st.sampled_from(range(len(SMALL))), seed=st.integers(0, 10**6))
def test_any_legal_three_way_assignment_of_small_models(which: int, seed: int) -> None:
    reference = SMALL[which]
    assert check_assignments(reference, random_assignments(reference.graph, 1, seed), "three-way").failures == []


def test_random_assignments_are_legal_and_use_all_tiers() -> None:
    graph = SMALL[0].graph
    seen = set()
    for ranks in random_assignments(graph, 50):
        assert ranks[INPUT] == 0
        assert all(ranks[u] <= ranks[v] for u, v in graph.edges)
        seen.add(len(set(ranks)))
    assert 3 in seen


def test_the_checks_notice_a_wrong_part(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = small(Residual())
    right = reference.model.run_part

    def wrong(vertices, tensors):  # type: ignore[no-untyped-def]
        return {v: torch.nextafter(t, t + 1) for v, t in right(vertices, tensors).items()}

    monkeypatch.setattr(reference.model, "run_part", wrong)
    assert len(check_assignments(reference, cuts(reference.graph), "cuts").failures) == len(reference.graph)


def test_parts_do_not_write_to_their_inputs_and_take_any_layout() -> None:
    reference = SMALL[0]
    part = (2, 3, 4, 5)
    inputs = {u: reference.values[u].clone() for u in reference.graph.boundary(part)[0]}
    before = {u: t.clone() for u, t in inputs.items()}
    expected = reference.model.run_part(part, inputs)
    assert all(torch.equal(inputs[u], before[u]) for u in inputs)
    raw = torch.empty(inputs[1].numel() + 1)[1:].view(inputs[1].shape).copy_(inputs[1])  # an odd address
    strided = inputs[1].to(memory_format=torch.channels_last)
    for other in (raw, strided):
        found = reference.model.run_part(part, {1: other})
        assert all(torch.equal(found[v], expected[v]) and found[v].is_contiguous() for v in expected)


def test_bad_inputs_of_a_part_are_named() -> None:
    model = SMALL[0].model
    with pytest.raises(ComputeError, match=r"needs the tensor of 'stem\.0'"):
        model.run_part((2, 3), {})
    with pytest.raises(ComputeError, match=r"has shape \(1, 3, 5, 5\) instead of"):
        model.run_part((1,), {0: torch.zeros(1, 3, 5, 5)})


def test_verify_prints_a_table_and_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["model_blocks:Residual"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[22:50].strip() for line in lines[1:]] == [
        "captured against original",
        "each vertex a part",
        "cuts",
        "three-way assignments",
        "tiles, float32",
        "tiles, float64",
    ]
    assert verify.main(["resnet19"]) == 2
    assert "did you mean 'resnet18'" in capsys.readouterr().err
