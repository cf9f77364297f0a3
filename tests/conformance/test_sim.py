"""Backend `sim` passes the conformance suite, with messages by reference and through the wire format."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conformance.checks import CHECKS
from conformance.fault_checks import FAULT_CHECKS
from conformance.outcome import outcome_of_one_request
from conformance.scenario import scenario
from conformance.sessions import Check, Tolerance
from testbed.backends.sim import SimBackend

SIM = Tolerance(small=0.001, transfer=0.001, share=0.001, settle_s=0.1)


@pytest.mark.parametrize("strict", [False, True], ids=["by-reference", "strict"])
@pytest.mark.parametrize("check", [*CHECKS, *FAULT_CHECKS], ids=lambda check: check.__name__)
def test_conformance(check: Check, strict: bool) -> None:
    SimBackend(strict).run(scenario(), lambda session: check(session, SIM))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance_without_delays(check: Check) -> None:
    tolerance = replace(SIM, delays=False)
    SimBackend().run(scenario(delays=False), lambda session: check(session, tolerance))


def test_the_same_plan_gives_the_same_answer_and_message_bytes_with_and_without_the_wire_format() -> None:
    by_reference, strict = (
        SimBackend(strict).run(scenario(), lambda session: outcome_of_one_request(session, SIM)) for strict in (False, True)
    )
    assert by_reference == strict
