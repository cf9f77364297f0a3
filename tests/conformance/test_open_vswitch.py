"""Backend `mininet` with Open vSwitch passes the checks of links and messages that it passes with Linux bridges."""

from __future__ import annotations

import pytest
import stalls

from conformance import checks
from conformance.attempts import error_of
from conformance.outcome import Outcome, judge, outcome_of_one_request
from conformance.scenario import scenario
from conformance.sessions import Check
from conformance.test_mininet import ATTEMPTS, MININET, NETEM
from testbed.backends.base import Session
from testbed.backends.mininet import MininetBackend
from testbed.backends.mininet_support import lacking_open_vswitch
from testbed.backends.sim import SimBackend

ON_LINKS: tuple[Check, ...] = (
    checks.a_rate_change_holds_for_the_rest_of_a_message,
    checks.an_outage_holds_a_message_back_and_loses_nothing,
    checks.a_message_sent_in_an_outage_waits_for_its_end_and_no_longer,
    checks.counters_hold_every_byte_that_was_sent,
    checks.backend_trusts_an_undisturbed_session,
)
pytestmark = [
    pytest.mark.emulation,
    pytest.mark.long,
    pytest.mark.skipif(bool(lacking_open_vswitch()), reason="Open vSwitch is missing: scripts/setup.sh open-vswitch"),
]


def test_links_and_messages_are_those_of_any_backend() -> None:
    asked = scenario(delays=NETEM, switch="open-vswitch")

    async def main(session: Session) -> tuple[Outcome, dict[str, Exception | None]]:
        outcome = await outcome_of_one_request(session, MININET)
        return outcome, {check.__name__: await error_of(session, check, MININET, watch, ATTEMPTS) for check in ON_LINKS}

    with stalls.watching() as watch:
        outcome, errors = MininetBackend().run(asked, main)
    assert {name: error for name, error in errors.items() if error is not None} == {}
    judge(outcome)
    assert outcome == SimBackend().run(scenario(delays=NETEM), lambda session: outcome_of_one_request(session, MININET))
