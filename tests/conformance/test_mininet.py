"""Backend `mininet` passes the conformance suite: real agents, real TCP, this kernel's queues.

Starting a network takes seconds, so the checks share two sessions: one that they leave as they found it, one in which agents die.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import stalls

from conformance import checks
from conformance.attempts import error_of
from conformance.checks import CHECKS
from conformance.fault_checks import FAULT_CHECKS
from conformance.outcome import Outcome, judge, outcome_of_one_request
from conformance.scenario import scenario
from conformance.sessions import Check, Tolerance
from testbed.backends.base import Session
from testbed.backends.mininet import MininetBackend
from testbed.backends.mininet_support import kernel
from testbed.backends.sim import SimBackend

NETEM = bool(kernel()["netem"])
# Without netem the first frame of a message crosses each link for free: a seventh of 10 kB. Two TCP flows in one queue share it
# as their windows happen to grow; only their sum is exact. 10 MB at 10 Mbit/s are measured in `test_emulated_network`.
MININET = Tolerance(
    small=0.05 if NETEM else 0.35, transfer=0.03, share=0.5, settle_s=0.3, delays=NETEM, attempts=6, longest_s=2.0
)

HARMLESS: tuple[Check, ...] = (
    checks.transfers_take_wire_bytes_over_rate_plus_delay,
    checks.a_rate_change_holds_for_the_rest_of_a_message,
    checks.an_outage_holds_a_message_back_and_loses_nothing,
    checks.a_message_sent_in_an_outage_waits_for_its_end_and_no_longer,
    checks.an_idle_link_lets_nothing_through_in_an_outage,
    checks.two_streams_share_a_link_fairly,
    checks.counters_hold_every_byte_that_was_sent,
    checks.backend_trusts_an_undisturbed_session,
)
DEADLY: tuple[Check, ...] = (
    checks.a_killed_agent_fails_its_requests_by_name,
    checks.control_channels_keep_order_and_tell_of_the_end,
)
TIMED: tuple[Check, ...] = HARMLESS[1:5]
ATTEMPTS = 4
"""Checks of single transfers' times, and how often they may be tried: a real machine has other work."""

pytestmark = [pytest.mark.emulation, pytest.mark.slow]


@dataclass
class Ends:
    """What came of the checks, by name (None: passed), and of one request."""

    errors: dict[str, Exception | None] = field(default_factory=dict)
    outcome: Outcome | None = None


@pytest.fixture(scope="module")
def ends() -> Ends:
    found = Ends()

    async def one_after_another(session: Session, group: tuple[Check, ...]) -> None:
        for check in group:
            most = ATTEMPTS if check in TIMED else 1
            found.errors[check.__name__] = await error_of(session, check, MININET, watch, most)

    async def harmless(session: Session) -> None:
        found.outcome = await outcome_of_one_request(session, MININET)
        await one_after_another(session, HARMLESS)

    with stalls.watching() as watch:
        MininetBackend().run(scenario(delays=NETEM), harmless)
        MininetBackend().run(scenario(delays=NETEM), lambda session: one_after_another(session, (*FAULT_CHECKS, *DEADLY)))
    return found


def test_every_check_has_a_session() -> None:
    assert {*HARMLESS, *DEADLY} == {*CHECKS} - {checks.a_request_ends_in_the_whole_models_answer}


@pytest.mark.parametrize("check", [*HARMLESS, *FAULT_CHECKS, *DEADLY], ids=lambda check: check.__name__)
def test_conformance(check: Check, ends: Ends) -> None:
    error = ends.errors[check.__name__]
    if error is not None:
        raise error


def test_a_request_ends_in_the_whole_models_answer_with_the_message_bytes_of_the_simulation(ends: Ends) -> None:
    assert ends.outcome is not None
    judge(ends.outcome)
    assert ends.outcome == SimBackend().run(scenario(delays=NETEM), lambda session: outcome_of_one_request(session, MININET))
