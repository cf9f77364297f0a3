"""The checks find a network that does not do what it is told, also where they allow for a machine that stalls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from stalls import CALM_S, Attempt, carried_over_allowed, settled, verdict

from conformance import checks, sessions
from conformance.scenario import BACKBONE_BPS, scenario
from conformance.sessions import Check
from conformance.test_mininet import MININET
from testbed.backends.base import Session
from testbed.backends.sim import SimBackend
from testbed.scenario.state import LinkState

STALLING = replace(MININET, delays=True, longest_s=2.0, stalls=lambda: lambda: 0.25)
"""What is allowed on a real clock, on a machine that held things up for a quarter of a second in every attempt."""

Changing = Callable[[Callable[..., Awaitable[None]], str, Any, LinkState], Awaitable[None]]


def disobedient(session: Session, changing: Changing) -> Session:
    """A session whose links are changed by `changing`, which is given the true way to do so."""
    honest = session.apply_link
    session.apply_link = lambda link, way, state: changing(honest, link, way, state)  # type: ignore[method-assign]
    return session


def times(factor: float) -> Changing:
    """Every rate but the link's own is so many times what is asked for."""

    async def change(honest: Callable[..., Awaitable[None]], link: str, way: Any, state: LinkState) -> None:
        wrong = state.rate_bps not in (0.0, BACKBONE_BPS)
        await honest(link, way, replace(state, rate_bps=state.rate_bps * factor) if wrong else state)

    return change


async def deaf(*_: Any) -> None:
    """Nothing is changed."""


async def never_back(honest: Callable[..., Awaitable[None]], link: str, way: Any, state: LinkState) -> None:
    """After an outage or another rate the link has half its own."""
    await honest(link, way, replace(state, rate_bps=BACKBONE_BPS / 2) if state.rate_bps == BACKBONE_BPS else state)


RATE, OUTAGE, WITHIN = (
    checks.a_rate_change_holds_for_the_rest_of_a_message,
    checks.an_outage_holds_a_message_back_and_loses_nothing,
    checks.a_message_sent_in_an_outage_waits_for_its_end_and_no_longer,
)


@pytest.mark.parametrize(
    ("check", "changing"),
    [
        (RATE, deaf),
        (RATE, times(2.0)),
        (RATE, times(1.2)),
        (RATE, times(0.5)),
        (RATE, never_back),
        (OUTAGE, deaf),
        (WITHIN, deaf),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_link_that_is_not_changed_as_asked_is_found_on_a_machine_that_stalls(check: Check, changing: Changing) -> None:
    with pytest.raises(AssertionError):
        SimBackend().run(scenario(), lambda session: check(disobedient(session, changing), STALLING))


@pytest.mark.parametrize("factor", [0.5, 1.1, 2.0])
def test_links_of_another_rate_are_found_on_a_machine_that_stalls(factor: float) -> None:
    async def main(session: Session) -> None:
        await session.apply_link("backbone", "up", LinkState(BACKBONE_BPS * factor, 0.01))
        await checks.transfers_take_wire_bytes_over_rate_plus_delay(session, STALLING)

    with pytest.raises(AssertionError):
        SimBackend().run(scenario(), main)


def test_a_stall_is_no_excuse_for_being_early() -> None:
    for seconds, passes in ((0.96, False), (0.98, True), (1.02, True), (1.27, True), (1.29, False)):
        if passes:
            sessions.assert_takes(seconds, 1.0, 1.0, 0.03, 0.25)
        else:
            with pytest.raises(AssertionError, match="the machine stalled for"):
                sessions.assert_takes(seconds, 1.0, 1.0, 0.03, 0.25)


def test_calm_attempts_decide_where_there_are_enough_of_them() -> None:
    wrong = AssertionError("too slow")
    calm_pass, calm_fail = Attempt(None, 0.0), Attempt(wrong, 0.0)
    rough_pass, rough_fail = Attempt(None, 2 * CALM_S), Attempt(wrong, 2 * CALM_S)
    assert verdict([rough_pass, calm_fail, calm_fail]) is wrong
    assert verdict([rough_pass, calm_fail, rough_fail]) is None
    assert verdict([calm_fail, calm_pass]) is None
    assert verdict([rough_fail] * 5) is wrong
    assert settled([calm_fail, calm_pass])
    assert not settled([rough_pass])


@pytest.mark.parametrize(("factor", "reached", "exceeded"), [(1.0, True, False), (0.5, False, False), (1.1, True, True)])
def test_the_judge_of_rates_finds_a_wrong_one_on_a_machine_that_stalls(factor: float, reached: bool, exceeded: bool) -> None:
    """A link asked for 5 Mbit/s, read every 20 ms; the machine stands still in the middle for 100 ms, and again in a reading."""
    carried_s = 0.0
    readings = []
    now = 0.0
    for number in range(25):
        stalled, slow = 0.1 * (number == 12), 0.005 + 0.03 * (number == 18)
        carried_s += 0.02 + slow
        now += 0.02 + stalled
        readings.append((now, int(carried_s * factor * 5e6 / 8), now + slow))
        now += slow
    least, most = carried_over_allowed(5e6, readings)
    assert (most >= 0.95, least > 1.03) == (reached, exceeded), (least, most)
