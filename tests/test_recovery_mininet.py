"""The same promises with processes, signals and sockets of Linux: agents that are killed and stopped, links that are shut."""

from __future__ import annotations

import pytest
from fault_runs import Outcome, fault, faulty

from testbed.backends.mininet import MininetBackend

SLOW = {
    tier: {"profile": "raspberry-pi-4", "speed": speed} for tier, speed in (("device", 0.01), ("edge", 0.02), ("cloud", 0.05))
}
LINKS = {"access": {"rate": "50 Mbit/s"}, "backbone": {"rate": "20 Mbit/s"}}
"""Without delay: the kernel may lack netem."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One run with one fault after the other; every answer is computed with torch, and checked."""
    return faulty(
        tmp_path_factory.mktemp("faults") / "run",
        fault("kill", at="1 s", host="e2", **{"for": "2 s"}),
        fault("hang", at="5 s", host="e1", **{"for": "3 s"}),
        fault("down", at="10 s", link="backbone", **{"for": "4 s"}),
        fault("orchestrator", at="16 s", **{"for": "1 s"}),
        fault("truncate", at="18.1 s", host="d1", peer="e1"),
        fault("kill", at="20 s", host="c1", **{"for": "2 s"}),
        fault("partition", at="24 s", hosts=["d1"], **{"for": "4 s"}),
        backend=MininetBackend(),
        model={"names": ["model_blocks:Residual"]},
        compute={"tensors": "real"},
        links=LINKS,
        hosts=SLOW,
        requests={"arrival": "fixed", "rate": "4 /s", "count": 124, "deadline": "10 s"},
        recovery={"heartbeat": "0.3 s", "detect": "1.5 s"},
    )


@pytest.mark.emulation
@pytest.mark.slow
def test_every_request_is_answered_rightly_through_one_fault_after_the_other(outcome: Outcome) -> None:
    assert not outcome.errors, [(row["request"], row["submitted_s"], row["error_text"]) for row in outcome.rows if row["error"]]
    assert {row["correct"] for row in outcome.rows} == {"true"}
    assert all(told["end_s"] for told in outcome.faults if told["kind"] != "truncate")


@pytest.mark.emulation
@pytest.mark.slow
def test_every_loss_is_noticed_and_planned_around(outcome: Outcome) -> None:
    told = {(row["kind"], row["target"]): row for row in outcome.faults}
    for key in (("kill", "e2"), ("hang", "e1"), ("down", "backbone"), ("kill", "c1"), ("partition", "d1")):
        assert told[key]["noticed_s"], key
        assert told[key]["replanned_s"], key
    assert {"e1", "e2", "c1"} <= {event["host"] for event in outcome.of("host_back")}


@pytest.mark.emulation
@pytest.mark.slow
def test_requests_go_on_without_what_is_lost(outcome: Outcome) -> None:
    assert outcome.resumed
    assert outcome.fidelity["sessions"][0]["facts"]["stray_ends"] == 0
