"""Backend `vkernel` passes the conformance suite, exactly: real agents, real TCP, real queues, and no clock but the network's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conformance import in_guest
from conformance.checks import CHECKS
from conformance.fault_checks import FAULT_CHECKS
from conformance.outcome import outcome_of_one_request
from conformance.scenario import scenario
from testbed.backends.base import Carried
from testbed.backends.sim import SimBackend
from testbed.backends.vkernel import VkernelBackend
from testbed.kernel import cache

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cache.installed() is None, reason="the time-travel kernel is not built: testbed kernel build"),
]

CLOCK_S = 3e-6
"""Looking at the clock takes some nanoseconds of virtual time; an agent does so some hundred times for a message."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All checks, a request and single messages, in one boot."""
    together = [check.__name__ for check in (*CHECKS, *FAULT_CHECKS) if check.__name__ not in in_guest.APART]
    names = {"together": together, "apart": list(in_guest.APART)}
    job = Carried("conformance.in_guest:everything", names, tmp_path_factory.mktemp("found"))
    answer: dict[str, Any] = VkernelBackend().carry(scenario(), job, lambda _event: None)["result"]
    return answer


@pytest.mark.parametrize("name", [check.__name__ for check in (*CHECKS, *FAULT_CHECKS)])
def test_conformance(found: dict[str, Any], name: str) -> None:
    if found["checked"][name] is not None:
        pytest.fail(found["checked"][name], pytrace=False)


def test_the_same_plan_gives_the_same_answer_and_message_bytes_as_in_simulation(found: dict[str, Any]) -> None:
    simulated = SimBackend().run(scenario(), lambda session: outcome_of_one_request(session, in_guest.VKERNEL))
    assert found["outcome"] == {**in_guest.plain(simulated), "torch": True}


def test_sizes_put_the_same_messages_on_the_wire_as_tensors_and_need_no_torch(tmp_path: Path) -> None:
    asked = scenario(tensors="sizes")
    job = Carried("conformance.in_guest:outcome", {"tensors": "sizes"}, tmp_path)
    carried = VkernelBackend().carry(asked, job, lambda _event: None)["result"]
    simulated = SimBackend().run(scenario(), lambda session: outcome_of_one_request(session, in_guest.VKERNEL))
    traffic = in_guest.plain(simulated)
    assert {key: carried[key] for key in ("sent", "received", "transfers")} == {
        key: traffic[key] for key in ("sent", "received", "transfers")
    }
    assert carried["torch"] is False


def test_warm_transfers_take_what_rate_and_delay_say(found: dict[str, Any]) -> None:
    """1 to 100 Mbit/s, 0 and 20 ms, 1 kB to 1 MB: median within 0.1 %, all within 0.5 %."""
    accuracy = found["accuracy"]
    off = sorted(max(0.0, abs(one["s"] - one["expected_s"]) - CLOCK_S) / one["expected_s"] for one in accuracy)
    assert len(off) == len(in_guest.RATES_BPS) * len(in_guest.DELAYS_S) * len(in_guest.SIZES)
    assert off[len(off) // 2] <= 0.001, accuracy
    assert off[-1] <= 0.005, accuracy
