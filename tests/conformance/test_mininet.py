"""Backend `mininet` passes the conformance suite: real agents, real TCP, this kernel's queues."""

from __future__ import annotations

import pytest

from conformance import checks
from conformance.checks import CHECKS, Check, Tolerance, outcome_of_one_request
from conformance.scenario import scenario
from testbed.backends.base import Session
from testbed.backends.mininet import MininetBackend
from testbed.backends.mininet_support import kernel
from testbed.backends.sim import SimBackend

NETEM = bool(kernel()["netem"])
# Without netem the first frame of a message crosses each link for free: a seventh of 10 kB. Two TCP flows in one queue share it
# as their windows happen to grow; only their sum is exact.
MININET = Tolerance(small=0.05 if NETEM else 0.35, transfer=0.03, share=0.5, settle_s=0.3, delays=NETEM, attempts=6)

TOGETHER: tuple[Check, ...] = (
    checks.transfers_take_wire_bytes_over_rate_plus_delay,
    checks.a_rate_change_holds_for_the_rest_of_a_message,
    checks.an_outage_holds_a_message_back_and_loses_nothing,
    checks.two_streams_share_a_link_fairly,
    checks.counters_hold_every_byte_that_was_sent,
    checks.backend_trusts_an_undisturbed_session,
)
"""Checks that leave a session as they found it; they share one, because starting one takes seconds."""

APART = tuple(check for check in CHECKS if check not in TOGETHER)

pytestmark = pytest.mark.emulation


@pytest.mark.slow
def test_conformance_of_links() -> None:
    async def all_of_them(session: Session) -> None:
        for check in TOGETHER:
            await check(session, MININET)

    MininetBackend().run(scenario(delays=NETEM), all_of_them)


@pytest.mark.slow
@pytest.mark.parametrize("check", APART, ids=lambda check: check.__name__)
def test_conformance(check: Check) -> None:
    MininetBackend().run(scenario(delays=NETEM), lambda session: check(session, MININET))


@pytest.mark.slow
def test_the_same_plan_gives_the_same_answer_and_message_bytes_as_in_simulation() -> None:
    asked = scenario(delays=NETEM)
    emulated = MininetBackend().run(asked, lambda session: outcome_of_one_request(session, MININET))
    simulated = SimBackend().run(asked, lambda session: outcome_of_one_request(session, MININET))
    assert emulated == simulated
