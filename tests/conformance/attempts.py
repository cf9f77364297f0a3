"""Conformance checks on a network of this machine, which has other work: tried again where they were held up.

The backbone is left as it was. How many attempts a check has is left to the caller; what counts as held up is in `stalls`.
"""

from __future__ import annotations

from dataclasses import replace

from stalls import Attempt, Stalls, settled, verdict

from conformance.scenario import BACKBONE_BPS, BACKBONE_S
from conformance.sessions import Check, Tolerance
from testbed.backends.base import Session
from testbed.scenario.state import LinkState


async def error_of(session: Session, check: Check, tolerance: Tolerance, watch: Stalls, most: int) -> Exception | None:
    """What a check found wrong, in the last of at most so many attempts that count; None if it holds."""
    attempts: list[Attempt] = []
    while not settled(attempts) and len(attempts) < most:
        error = None
        watch.longest_s = 0.0
        try:
            await check(session, replace(tolerance, stalls=watch.begin))
        except Exception as raised:
            error = raised
        await session.apply_link("backbone", "up", LinkState(BACKBONE_BPS, tolerance.delay_s(BACKBONE_S)))
        attempts.append(Attempt(error, watch.longest_s))
    return verdict(attempts)
