"""What a plan with exits means: what lies behind which exit, who waits for whom, what is legal; and how tensors are coded."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3node import codec
from d3node.channel import Payload
from d3node.errors import PlanError, ProtocolError
from d3node.exits import Exit, drawn, measured, reaching, stages
from d3node.graph import LayerGraph, Vertex
from d3node.plan import Plan
from d3node.program import Send, lower, lower_all


def branchy() -> LayerGraph:
    """input, a, exit A, b, exit B, c (the last output)."""
    inputs = ((), (0,), (1,), (1,), (3,), (3,))
    names = ("input", "a", "A", "b", "B", "c")
    vertices = tuple(Vertex(v, names[v], "linear", inputs[v], (1, 10), 40) for v in range(6))
    return LayerGraph("branchy", vertices, (2, 4, 5))


HOSTS = {"device": "d1", "edge": "e1", "cloud": "c1"}
PASSES = (Exit(2, "confidence", 0.9), Exit(4, "confidence", 0.9), Exit(5))
SPREAD = ("device", "device", "device", "edge", "edge", "cloud")


def plan(tiers: tuple[str, ...] = SPREAD, exits: tuple[Exit, ...] = PASSES, **more: object) -> Plan:
    return Plan("test", "branchy", tiers, HOSTS, exits=exits, **more)  # type: ignore[arg-type]


def test_a_vertex_lies_behind_the_exits_that_do_not_need_it() -> None:
    assert stages(branchy(), PASSES) == (0, 0, 0, 1, 1, 2)
    assert stages(branchy(), (Exit(4),)) == (0, 0, 1, 0, 0, 1)
    assert stages(branchy(), ()) == (0,) * 6


def test_nothing_past_an_exit_is_computed_or_sent_before_it() -> None:
    programs = lower(branchy(), plan())
    device, edge, cloud = (programs[tier] for tier in ("device", "edge", "cloud"))  # type: ignore[index]
    assert device.exits == (0,)
    assert device.sends == (Send(1, "e1", after=1),)
    assert [(step.vertices, step.after) for step in edge.steps] == [((3,), 1), ((4,), 1)]
    assert edge.sends == (Send(3, "c1", after=2),)
    assert cloud.steps[0].after == 2
    assert (device.passed, edge.passed, cloud.passed) == (0, 1, 2)
    assert not any(program.tells or program.answers for program in programs.values())


def test_what_no_exit_of_the_plan_needs_is_not_in_any_program() -> None:
    programs = lower(branchy(), plan(("device", "device", "device", "edge", "edge", "cloud"), (Exit(4),)))
    assert set(programs) == {"device", "edge"}
    assert [step.vertices for step in programs["device"].steps] == [(1,)]


def test_who_waits_for_a_higher_hosts_exit_is_told() -> None:
    tiers = ("device", "device", "edge", "edge", "edge", "cloud")
    programs = {p.host: p for p in lower_all(branchy(), plan(tiers, placed=((1, "d2"),)))}
    assert set(programs) == {"d1", "e1", "c1", "d2"}
    assert programs["d2"].sends == (Send(1, "e1", after=0),)
    late = LayerGraph(
        "late",
        (*branchy().vertices[:3], replace(branchy()[3], inputs=(0,)), *branchy().vertices[4:]),
        (2, 4, 5),
    )
    waiting = {p.host: p for p in lower_all(late, plan(tiers))}
    assert waiting["d1"].sends == (Send(0, "e1", after=1), Send(1, "e1", after=0))
    assert waiting["e1"].tells == ((0, "d1"),)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (plan(exits=(Exit(2, "confidence", 0.9), Exit(4, "confidence", 0.9))), "answers in any case"),
        (plan(exits=(Exit(2), Exit(4, "confidence", 0.9))), "answers in any case"),
        (plan(exits=(Exit(4, "entropy", 0.1), Exit(2))), "in the order"),
        (plan(exits=(Exit(3),)), "no output"),
        (plan(exits=(), fallback_s=1.0), "fall back"),
        (plan(placed=((3, "d2"),)), "not on the device tier"),
        (plan(placed=((2, "d2"),)), "do not send to each other"),
        (plan(coding="gzip"), "can be coded as"),
    ],
)
def test_an_illegal_plan_says_what_is_wrong(broken: Plan, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        broken.check(branchy())


def test_a_plan_with_exits_survives_json_and_an_old_plan_is_still_read() -> None:
    full = plan(coding="int8-shuffle-deflate", coded_bytes=((1, 20),), patience_s=0.5, fallback_s=1.0)
    full.check(branchy())
    assert Plan.from_json(full.to_json()) == full
    old = full.to_dict()
    for key in ("exits", "coding", "coded_bytes", "placed", "patience_s", "fallback_s"):
        del old[key]
    assert Plan.from_dict(old) == plan(exits=())
    assert Plan.from_dict(old).lossless
    assert not full.lossless


def test_confidence_and_entropy_are_those_of_the_papers() -> None:
    scores = np.log(np.array([[0.7, 0.2, 0.1], [1.0, 1.0, 1.0]], dtype=np.float32))
    assert measured(scores, "confidence") == pytest.approx([0.7, 1 / 3])
    by_hand = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)) / math.log(3)
    assert measured(scores, "entropy") == pytest.approx([by_hand, 1.0])
    assert Exit(2, "confidence", 0.7).answers(0.7)
    assert Exit(2, "entropy", 0.7).answers(0.7)
    assert not Exit(2, "entropy", 0.7).answers(0.71)
    assert Exit(2).answers(0.0)


def test_exits_drawn_without_tensors_keep_their_rate_and_repeat() -> None:
    exit_ = Exit(2, "confidence", 0.9, rate=0.3)
    first = [drawn(1, request, exit_) for request in range(4000)]
    assert first == [drawn(1, request, exit_) for request in range(4000)]
    assert first != [drawn(2, request, exit_) for request in range(4000)]
    assert sum(first) / 4000 == pytest.approx(0.3, abs=0.03)
    assert reaching((exit_, Exit(4, "confidence", 0.9, rate=0.5), Exit(5))) == pytest.approx((1.0, 0.7, 0.35, 0.0))


def tensor(values: np.ndarray) -> Payload:
    data = np.ascontiguousarray(values)
    return Payload(str(data.dtype), data.shape, data.nbytes, memoryview(data.reshape(-1).view(np.uint8)))


def back(payload: Payload) -> np.ndarray:
    assert payload.data is not None
    return np.frombuffer(payload.data, dtype=payload.dtype).reshape(payload.shape)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=70))
def test_quantised_values_come_back_within_half_a_step(values: list[float]) -> None:
    original = np.array(values, dtype=np.float32).reshape(1, -1)
    coded, what = codec.encode(tensor(original), "int8-shuffle-deflate")
    decoded = back(codec.decode(coded, what, tensor(original)))
    step = (float(original.max()) - float(original.min())) / 255.0
    assert np.abs(decoded - original).max() <= step / 2 + 1e-5


@given(st.lists(st.integers(0, 255), max_size=70))
def test_bits_are_shuffled_by_significance_and_back(codes: list[int]) -> None:
    raw = np.array(codes, dtype=np.uint8)
    planes = codec.shuffled(raw)
    assert (codec.unshuffled(planes)[: raw.size] == raw).all()
    highest = np.unpackbits(planes)[: raw.size]
    assert (highest == raw >> 7).all()


def test_an_image_is_deflated_without_loss_and_signs_take_a_bit_each() -> None:
    image = tensor(np.arange(100, dtype=np.uint8).reshape(1, 1, 10, 10))
    coded, what = codec.encode(image, "int8-shuffle-deflate")
    assert (back(codec.decode(coded, what, image)) == back(image)).all()
    signs = tensor(np.where(np.arange(60) % 3, 1.0, -1.0).astype(np.float32).reshape(1, 4, 3, 5))
    coded, what = codec.encode(signs, "sign-bits")
    assert coded.nbytes == 8  # 60 bits
    assert (back(codec.decode(coded, what, signs)) == back(signs)).all()
    scores = tensor(np.ones((1, 10), dtype=np.float32))
    assert codec.encode(scores, "sign-bits") == (scores, {"name": "float32"})


def test_a_tensor_that_is_not_what_it_says_is_refused() -> None:
    expected = tensor(np.zeros((1, 64), dtype=np.float32))
    bomb, what = codec.encode(tensor(np.zeros((1, 100_000), dtype=np.float32)), "int8-shuffle-deflate")
    with pytest.raises(ProtocolError, match="another size"):
        codec.decode(bomb, what, expected)
    with pytest.raises(ProtocolError, match="unknown way"):
        codec.decode(bomb, {"name": "pickle"}, expected)
    with pytest.raises(ProtocolError, match="cannot be inflated"):
        codec.decode(tensor(np.ones(9, dtype=np.uint8)), {"name": "int8-shuffle-deflate"}, expected)
