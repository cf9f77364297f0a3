"""Accounts of a request: what its hosts reported becomes times, bytes per kind of link, and totals per link direction."""

from __future__ import annotations

from typing import Any

import pytest
from orchestration import layout

from testbed.costs.network import frame_bytes
from testbed.orchestrator.account import Ledger, union_s

WHERE = layout(devices=1, edges=2)


def transfer(peer: str, start: float, end: float, nbytes: int, kind: str = "tensor") -> dict[str, Any]:
    return {"what": "transfer", "peer": peer, "kind": kind, "start": start, "end": end, "bytes": nbytes}


def compute(start: float, end: float, queued: float = 0.0, overrun: float = 0.0) -> dict[str, Any]:
    return {"what": "compute", "step": 0, "vertices": [1], "start": start, "end": end, "queued_s": queued, "overrun_s": overrun}


def report(host: str, *records: dict[str, Any], sent: int = 0, received: int = 0) -> dict[str, Any]:
    return {"host": host, "records": list(records), "bytes_sent": sent, "bytes_received": received}


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [([], 0.0), ([(1, 2)], 1.0), ([(0, 2), (1, 3)], 3.0), ([(4, 5), (0, 1)], 2.0), ([(0, 9), (1, 2), (8, 10)], 10.0)],
)
def test_time_that_overlaps_counts_once(spans: list[tuple[float, float]], seconds: float) -> None:
    assert union_s(spans) == seconds


def test_a_request_over_all_tiers_is_taken_apart() -> None:
    ledger = Ledger(WHERE)
    found = ledger.book(
        [
            report("d1", compute(0.0, 0.1), transfer("c1", 1.4, 1.5, 4000, "answer"), sent=100_000, received=4000),
            report("e1", transfer("d1", 0.1, 0.3, 100_000), compute(0.3, 0.5, queued=0.02), transfer("e2", 0.7, 0.8, 5000)),
            report("e2", transfer("e1", 0.3, 0.4, 6000), compute(0.4, 0.7, queued=0.01, overrun=0.05)),
            report("c1", transfer("e1", 0.8, 1.2, 50_000), transfer("e1", 0.9, 1.3, 20_000), compute(1.3, 1.4)),
        ]
    )
    assert found.compute_s == {"device": 0.1, "edge": pytest.approx(0.4), "cloud": pytest.approx(0.1)}
    assert (found.queue_s, found.overrun_s) == (pytest.approx(0.03), 0.05)
    assert found.transfer_access_s == pytest.approx(0.2)
    assert found.transfer_lan_s == pytest.approx(0.2)
    assert found.transfer_backbone_s == pytest.approx(0.5)
    assert found.transfer_return_s == pytest.approx(0.1)
    assert (found.access_bytes, found.lan_bytes, found.backbone_bytes) == (100_000, 11_000, 70_000)
    assert (found.sent_bytes, found.received_bytes) == (100_000, 4000)


def test_a_warm_up_request_moves_bytes_but_its_compute_times_count_nowhere() -> None:
    ledger = Ledger(WHERE)
    slow = report("c1", transfer("e1", 0.0, 1.0, 50_000), compute(1.0, 3.0, overrun=1.5))
    assert ledger.book([slow], warmup=True).overrun_s == 1.5
    assert (ledger.compute_s, ledger.overrun_s) == (0.0, 0.0)
    assert ledger.links["backbone", "up"].message_bytes == 50_000
    ledger.book([slow])
    assert (ledger.compute_s, ledger.overrun_s) == (2.0, 1.5)


def test_links_are_booked_in_the_direction_they_are_crossed() -> None:
    ledger = Ledger(WHERE)
    ledger.book(
        [report("c1", transfer("e1", 0, 1, 50_000), transfer("e1", 1, 2, 20_000)), report("d1", transfer("c1", 2, 3, 4000))]
    )
    up, down = ledger.links["backbone", "up"], ledger.links["backbone", "down"]
    assert (up.messages, up.message_bytes, up.framed_bytes) == (2, 70_000, frame_bytes(50_000) + frame_bytes(20_000))
    assert (down.messages, down.message_bytes) == (1, 4000)
    assert ledger.links["lan-e1", "up"].message_bytes == 70_000
    assert ledger.links["access-d1", "down"].message_bytes == 4000
    assert ("access-d1", "up") not in ledger.links


def test_bytes_on_a_cellular_uplink_leave_the_site_too() -> None:
    from testbed import registry
    from testbed.scenario.schema import TopologyTable

    where = registry.layout(TopologyTable(cellular=True))
    ledger = Ledger(where)
    found = ledger.book([report("c1", transfer("d1", 0, 1, 30_000))])
    assert found.backbone_bytes == 30_000
    assert ledger.links["cellular-d1", "up"].message_bytes == 30_000
    assert ("backbone", "up") not in ledger.links
