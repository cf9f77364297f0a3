"""Faults of one host that overlap: it stays as they leave it until the last of them ends, and plans are never ahead of hosts."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_runs import Outcome, fault, faulty
from orchestration import scenario

from testbed.backends.sim import SimBackend
from testbed.errors import ScenarioError
from testbed.orchestrator import run


def moments(outcome: Outcome, event: str) -> list[float]:
    return [round(found["at_s"], 6) for found in outcome.of(event)]


@pytest.mark.parametrize("kind", ["kill", "hang"])
@pytest.mark.parametrize(
    ("first", "second", "until_s"),
    [
        (("1 s", "2.5 s"), ("1.5 s", "0.5 s"), 3.5),
        (("1 s", "1 s"), ("1.5 s", "2 s"), 3.5),
    ],
    ids=["nested", "one after the other"],
)
def test_a_host_is_back_when_the_last_fault_of_its_kind_has_ended(
    tmp_path: Path, kind: str, first: tuple[str, str], second: tuple[str, str], until_s: float
) -> None:
    both = [fault(kind, at=at, host="e2", **{"for": lasts}) for at, lasts in (first, second)]
    outcome = faulty(tmp_path / "run", *both)
    assert len(moments(outcome, "host_lost")) == 1, "nobody kills an agent that is alive"
    (back,) = moments(outcome, "host_back")
    assert until_s <= back <= until_s + 0.2 + 1e-6
    assert not outcome.errors


def test_a_host_that_is_dead_for_good_is_not_brought_back_by_another_fault(tmp_path: Path) -> None:
    for_good, within = fault("kill", at="1 s", host="e2"), fault("kill", at="1.5 s", host="e2", **{"for": "0.5 s"})
    outcome = faulty(tmp_path / "run", for_good, within)
    assert "e2" not in outcome.hosts_after(1.1)
    (back,) = moments(outcome, "host_back")
    assert back >= float(outcome.rows[-1]["submitted_s"]), "the session is over, and its faults with it"


def test_a_hang_ends_with_the_agent_that_hung(tmp_path: Path) -> None:
    hang = fault("hang", at="1 s", host="e2", **{"for": "2 s"})
    kill = fault("kill", at="1.2 s", host="e2", **{"for": "0.5 s"})
    again = fault("hang", at="2.5 s", host="e2", **{"for": "1 s"})
    outcome = faulty(tmp_path / "run", hang, kill, again)
    assert [round(at) for at in moments(outcome, "host_lost")] == [1, 3]
    killed, hung = moments(outcome, "host_back")
    assert 1.7 <= killed <= 1.9 + 1e-6
    assert 3.5 <= hung <= 3.7 + 1e-6, "the first hang's end is none of the second's business"


def test_an_orchestrator_is_back_when_the_last_of_its_outages_has_ended(tmp_path: Path) -> None:
    outage, within = fault("orchestrator", at="1 s", **{"for": "2 s"}), fault("orchestrator", at="1.5 s", **{"for": "0.5 s"})
    outcome = faulty(tmp_path / "run", outage, within)
    submitted = [float(row["submitted_s"]) for row in outcome.rows]
    assert not [at for at in submitted if 1.0 < at < 3.0 - 1e-6]
    assert not outcome.errors


def test_no_request_is_begun_on_a_plan_that_its_device_has_lost_while_the_next_one_is_installed(tmp_path: Path) -> None:
    """Chaos found it: the device comes back and knows of no plan, the cloud hangs and its `install` goes unanswered."""
    device = fault("hang", at="1 s", host="d1", **{"for": "1.1 s"})
    cloud = fault("hang", at="1.9 s", host="c1", **{"for": "3 s"})
    outcome = faulty(tmp_path / "run", device, cloud, planning={"planners": ["cloud-only"]})
    assert set(outcome.errors) == {"AgentError", "HostUnreachable"}
    assert not outcome.rows[-1]["error"]


def test_ends_are_heard_after_an_orchestrators_outage_that_is_longer_than_deadlines(tmp_path: Path) -> None:
    """The device has ended its request at the deadline and kept the word; nobody gave it up meanwhile, to hear a second end."""
    hang, away = fault("hang", at="1 s", host="c1"), fault("orchestrator", at="1.1 s", **{"for": "15 s"})
    outcome = faulty(tmp_path / "run", hang, away, requests={"count": 4}, planning={"planners": ["cloud-only"]})
    (late,) = [row for row in outcome.rows if row["error"] == "DeadlineExceeded"]
    assert "8 s" in late["error_text"], "that is the device's own word"


def test_a_frame_between_hosts_that_never_talk_is_refused_before_the_run(tmp_path: Path) -> None:
    """It ended the run, in the middle of it."""
    asked = scenario(topology={"name": "two_sites"}, fault=[fault("truncate", host="ea1", peer="db1")])
    with pytest.raises(ScenarioError, match="fault 1, peer: ea1 and db1 are of different sites"):
        run(asked, SimBackend(), tmp_path / "run")
