"""The verdict: the worst of all invariants, each with its figure; and bytes reported against bytes counted."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.backends.base import Invariant, LinkCounters
from testbed.costs.network import frame_bytes
from testbed.orchestrator.account import LinkBytes
from testbed.orchestrator.fidelity import PairFacts, backbone_gap, document


def facts(**figures: Any) -> PairFacts:
    return PairFacts("m", "p", requests=10, over=10, checked=10, compute_s=10.0, **figures)


def test_a_run_without_fault_is_trusted() -> None:
    found = document([facts()], [Invariant("links", "ok", 0.5, 1.0)], None)
    assert (found["verdict"], found["failing"]) == ("trusted", [])
    assert found["sessions"][0]["verdict"] == "trusted"


@pytest.mark.parametrize(
    ("figures", "verdict", "name"),
    [
        ({"wrong": 1}, "rejected", "answers"),
        ({"failed": 1}, "degraded", "failed_requests"),
        ({"failed": 9}, "degraded", "failed_requests"),
        ({"failed": 10}, "rejected", "failed_requests"),
        ({"stray_ends": 1}, "rejected", "one_ending_each"),
        ({"missing_reports": 1}, "degraded", "reports"),
        ({"unbalanced_bytes": 1}, "degraded", "sender_receiver_bytes"),
        ({"trace_late_s": 0.02}, "degraded", "trace_lateness_s"),
        ({"trace_late_s": 0.2}, "rejected", "trace_lateness_s"),
        ({"loop_late_s": 0.03}, "degraded", "event_loop_lag_s"),
        ({"overrun_s": 0.2}, "degraded", "compute_overrun"),
        ({"overrun_s": 0.6}, "rejected", "compute_overrun"),
        ({"gaps": {"backbone up": 0.006}}, "degraded", "backbone_bytes"),
        ({"gaps": {"backbone up": 0.06}}, "rejected", "backbone_bytes"),
    ],
)
def test_each_broken_invariant_is_named_and_decides(figures: dict[str, Any], verdict: str, name: str) -> None:
    found = document([facts(), facts(**figures)], [], None)
    assert found["verdict"] == verdict
    assert [s["verdict"] for s in found["sessions"]] == ["trusted", verdict]
    assert len(found["failing"]) == 1
    assert found["failing"][0].startswith(f"m/p: {name} = ")


def test_a_request_without_an_end_is_an_invariant_broken() -> None:
    lost = PairFacts("m", "p", requests=10, over=9)
    assert document([lost], [], None)["verdict"] == "rejected"


def test_a_failed_request_is_told_as_a_share_with_its_count() -> None:
    found = document([facts(failed=3)], [], None)
    assert found["failing"] == ["m/p: failed_requests = 0.3 (bound 0), degraded: share of requests: 3 of 10 failed"]


def test_what_the_backend_knows_counts_for_every_session() -> None:
    found = document([facts()], [Invariant("idle_cpu", "degraded", 0.01, 0.1, "busiest second")], None)
    assert (found["verdict"], found["sessions"][0]["verdict"]) == ("degraded", "degraded")
    assert found["failing"] == ["idle_cpu = 0.01 (bound 0.1), degraded: busiest second"]


def test_an_unfinished_run_is_rejected() -> None:
    found = document([facts()], [], "the run was interrupted")
    assert found["verdict"] == "rejected"
    assert "interrupted" in found["failing"][0]


class TestBackboneGap:
    up = LinkBytes(10, 10 * 602_201, 10 * frame_bytes(602_201))
    down = LinkBytes(10, 10 * 4_000, 10 * frame_bytes(4_000))

    def gap(self, wire: float, loss: float = 0.0) -> float:
        return backbone_gap(LinkCounters(round(wire), 0, 0), self.up, self.down, loss)

    def test_framed_bytes_have_none(self) -> None:
        assert self.gap(self.up.framed_bytes) == 0.0

    def test_neither_have_acknowledgements(self) -> None:
        assert self.gap(self.up.framed_bytes + 66 * 10 * 3) == 0.0

    def test_what_failed_requests_sent_is_no_gap_but_bytes_that_were_never_counted_are(self) -> None:
        def gap(wire: float) -> float:
            return backbone_gap(LinkCounters(round(wire), 0, 0), self.up, self.down, 0.0, complete=False)

        assert gap(self.up.framed_bytes * 1.5) == 0.0
        assert gap(self.up.framed_bytes * 0.9) == pytest.approx(0.1, abs=0.01)

    def test_bytes_that_nobody_reported_have(self) -> None:
        assert self.gap(self.up.framed_bytes * 1.02) == pytest.approx(0.02, abs=0.002)

    def test_bytes_that_nobody_counted_have(self) -> None:
        assert self.gap(self.up.framed_bytes * 0.97) == pytest.approx(0.03, abs=0.002)

    def test_retransmissions_are_allowed_for_where_loss_is_configured(self) -> None:
        assert self.gap(self.up.framed_bytes * 1.02, loss=0.02) == 0.0

    def test_an_unused_link_may_carry_connection_setup(self) -> None:
        assert backbone_gap(LinkCounters(900, 12, 0), LinkBytes(), LinkBytes(), 0.0) == 0.0
