"""Recovery in virtual time over Linux's own sockets: every kind of fault in one boot, and what is promised holds there, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_runs import fault, faulty

from testbed.backends.vkernel import VkernelBackend
from testbed.kernel import cache

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(cache.installed() is None, reason="the time-travel kernel is not built: testbed kernel build"),
]

FAULTS = (
    fault("kill", at="1.1 s", host="e2", **{"for": "1 s"}),
    fault("hang", at="3.0 s", host="e1", **{"for": "1.5 s"}),
    fault("down", at="5.5 s", link="backbone", **{"for": "2 s"}),
    fault("flap", at="8.0 s", link="access-d1", period="0.2 s", **{"for": "0.6 s"}),
    fault("loss", at="9.0 s", link="backbone", loss="10 %", **{"for": "0.5 s"}),
    fault("partition", at="10.0 s", hosts=["e3", "e4"], **{"for": "1.5 s"}),
    fault("slow", at="12.0 s", host="e2", factor=4, **{"for": "1 s"}),
    fault("corrupt", at="13.5 s", host="d1", peer="e1"),
    fault("truncate", at="14.5 s", host="e1", peer="c1"),
    fault("orchestrator", at="15.5 s", **{"for": "1 s"}),
    fault("kill", at="17.0 s", host="c1", **{"for": "1 s"}),
    fault("kill", at="17.2 s", host="c1", **{"for": "0.3 s"}),
)


def test_requests_end_once_and_in_time_whatever_goes_wrong_in_virtual_time(tmp_path: Path) -> None:
    outcome = faulty(
        tmp_path / "run",
        *FAULTS,
        backend=VkernelBackend(),
        links={"access": {"rate": "50 Mbit/s"}, "backbone": {"rate": "20 Mbit/s", "delay": "10 ms"}},
        requests={"arrival": "fixed", "rate": "2 /s", "count": 40},
    )
    assert len([told for told in outcome.faults if told["begin_s"] and told["end_s"]]) == len(FAULTS)
    assert not outcome.errors
    assert outcome.resumed
    killed, hung = outcome.faults[0], outcome.faults[1]
    assert float(killed["noticed_s"]) == pytest.approx(1.1, abs=0.01)
    assert 3.4 <= float(hung["noticed_s"]) <= 3.0 + 0.6 + 0.2
    back = [event["at_s"] for event in outcome.of("host_back") if event["host"] == "c1"]
    assert len(back) == 1
    assert back[0] >= 18.0, "the last of two deaths counts"
    assert {"e1", "e2", "e3", "e4"} <= outcome.hosts_after(12.0)
    (session,) = outcome.fidelity["sessions"]
    assert session["facts"]["stray_ends"] == 0
