"""Backend `mininet` with Open vSwitch passes the checks of links and messages that it passes with Linux bridges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import stalls
from stalls import Attempt, settled, verdict

from conformance import checks
from conformance.outcome import Outcome, judge, outcome_of_one_request
from conformance.scenario import BACKBONE_BPS, BACKBONE_S, scenario
from conformance.sessions import Check
from conformance.test_mininet import ATTEMPTS, MININET, NETEM
from testbed.backends.base import Session
from testbed.backends.mininet import MininetBackend
from testbed.backends.mininet_support import lacking_open_vswitch
from testbed.backends.sim import SimBackend
from testbed.scenario.state import LinkState

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

    async def attempt(session: Session, check: Check) -> Attempt:
        error = None
        watch.longest_s = 0.0
        try:
            await check(session, replace(MININET, stalls=watch.begin))
        except Exception as raised:
            error = raised
        await session.apply_link("backbone", "up", LinkState(BACKBONE_BPS, MININET.delay_s(BACKBONE_S)))
        return Attempt(error, watch.longest_s)

    async def main(session: Session) -> tuple[Outcome, dict[str, Exception | None]]:
        outcome = await outcome_of_one_request(session, MININET)
        errors = {}
        for check in ON_LINKS:
            attempts: list[Attempt] = []
            while not settled(attempts) and len(attempts) < ATTEMPTS:
                attempts.append(await attempt(session, check))
            errors[check.__name__] = verdict(attempts)
        return outcome, errors

    with stalls.watching() as watch:
        outcome, errors = MininetBackend().run(asked, main)
    assert {name: error for name, error in errors.items() if error is not None} == {}
    judge(outcome)
    assert outcome == SimBackend().run(scenario(delays=NETEM), lambda session: outcome_of_one_request(session, MININET))
