"""What an agent refuses, in words: requests, plans and configurations that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from agent_rig import Rig, three_way, timed
from test_agent_virtual import GRAPH, simulate, submit


def test_submitting_what_cannot_run_ends_with_a_reason() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, three_way(GRAPH))
        await submit(agents, 1, epoch=9)
        await submit(agents, 2, epoch=1, device="e1")
        (first,) = await agents.remotes["d1"].wait()
        (second,) = await agents.remotes["e1"].wait()
        for message, text in ((first, "epoch 9 is not installed on d1"), (second, "a plan for d1 on e1")):
            assert (message.kind, message.fields["error"]) == ("failed", "PlanError")
            assert text in message.fields["text"]

    simulate(test)


def test_a_request_cannot_be_submitted_twice_at_a_time() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, three_way(GRAPH), 1.0)
        await submit(agents, 1)
        await submit(agents, 1)
        events = await agents.remotes["d1"].wait(2, ["done", "failed", "refused"])
        assert [e.kind for e in events] == ["refused", "done"]
        assert "already running" in events[0].fields["text"]

    simulate(test)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"plan": {"nonsense": 1}}, "PlanError", "not a plan"),
        ({"plan": {**three_way(GRAPH).to_dict(), "model": "gpt"}}, "ModelError", "has not loaded model 'gpt'"),
        ({"plan": {**three_way(GRAPH).to_dict(), "tiers": ["cloud"] * 7}}, "PlanError", "input vertex belongs to the device"),
        ({"steps_s": {"device": [1.0]}}, "PlanError", "the edge part has 1 steps, but none"),
        ({"steps_s": {"device": [1.0], "edge": [-1.0], "cloud": [1.0]}}, "PlanError", "cannot take"),
        ({"steps_s": None}, "ProtocolError", "steps_s"),
        ({"plan": {**three_way(GRAPH).to_dict(), "hosts": dict.fromkeys(("device", "edge", "cloud"), "e1")}}, "PlanError", "one"),
        (
            {"plan": {**three_way(GRAPH).to_dict(), "hosts": {"device": "d1", "edge": "e1", "cloud": "c9"}}},
            "PlanError",
            "no address of c9",
        ),
    ],
)
def test_plans_that_do_not_fit_are_refused_in_words(change: dict[str, Any], error: str, text: str) -> None:
    async def test(agents: Rig) -> None:
        answer = await agents.remotes["e1"].ask("install", **{**timed(GRAPH, three_way(GRAPH), 1.0), **change})
        assert (answer.kind, answer.fields["error"]) == ("refused", error)
        assert text in answer.fields["text"]
        assert (await agents.remotes["e1"].ask("stats")).fields["epochs"] == []

    simulate(test)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"mode": "guessed"}, "'guessed' is not one of modelled, measured"),
        ({"mode": "measured"}, "cannot be measured with sizes only"),
        ({"tensors": "real"}, "only the graphs of chain"),
        ({"input_encoding": "jpeg"}, "'jpeg' is not one of float32, uint8"),
        ({"peers": 3}, "peers"),
    ],
)
def test_configurations_that_make_no_sense_are_refused_in_words(fields: dict[str, Any], text: str) -> None:
    async def test(agents: Rig) -> None:
        given = {"peers": {}, "mode": "modelled", "tensors": "sizes", **fields}
        answer = await agents.remotes["e1"].ask("configure", **given)
        assert answer.kind == "refused"
        assert text in answer.fields["text"]

    simulate(test)


def test_an_epoch_number_stands_for_one_plan() -> None:
    async def test(agents: Rig) -> None:
        await agents.install(GRAPH, three_way(GRAPH))
        await agents.install(GRAPH, three_way(GRAPH))
        answer = await agents.remotes["e1"].ask("install", **timed(GRAPH, three_way(GRAPH, 1, 2, 5), 0.0))
        assert "already installed on e1 with another plan" in answer.fields["text"]

    simulate(test)
