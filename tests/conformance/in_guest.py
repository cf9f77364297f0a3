"""The conformance checks as jobs of the time-travel kernel: several sessions, one after the other, in one boot."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable
from typing import Any

from conformance import checks
from conformance.fault_checks import FAULT_CHECKS
from conformance.outcome import Outcome, outcome_of_one_request
from conformance.scenario import scenario
from conformance.sessions import Tolerance, fleet_of, probe
from testbed.backends.base import Session
from testbed.backends.vkernel_guest import GuestBackend
from testbed.costs.network import FRAME_OVERHEAD, SEGMENT_PAYLOAD, frame_bytes
from testbed.scenario.plain import from_plain, to_plain
from testbed.scenario.state import LinkState

Emit = Callable[..., None]
VKERNEL = Tolerance(small=0.01, transfer=0.011, share=0.5, settle_s=0.3)
"""Two flows of a real TCP share a queue as their windows happen to grow; only their sum is exact. The other bounds are for the
formula of the checks: between two links of the same rate a short last frame waits for the full one before it, up to 0.12 ms at
100 Mbit/s, which the formula leaves out. What the kernel itself is off by is in `accuracy`."""

APART = (
    "a_request_ends_in_the_whole_models_answer",
    "a_killed_agent_fails_its_requests_by_name",
    "control_channels_keep_order_and_tell_of_the_end",
)
"""Checks that leave a session changed."""

RATES_BPS, DELAYS_S, SIZES = (1e6, 10e6, 100e6), (0.0, 0.02), (1_000, 10_000, 100_000, 1_000_000)


def run_checks(emit: Emit, models: dict[str, str], together: list[str], apart: list[str]) -> dict[str, str | None]:
    """Checks by name -> None, or the traceback of one that failed. Those of `together` share a session."""
    found: dict[str, str | None] = {}
    by_name = {check.__name__: check for check in (*checks.CHECKS, *FAULT_CHECKS)}

    async def several(session: Session, names: list[str]) -> None:
        for name in names:
            try:
                await by_name[name](session, VKERNEL)
                found[name] = None
            except Exception:
                found[name] = traceback.format_exc()
            emit("checked", name=name, ok=found[name] is None)

    for names in (together, *([name] for name in apart)):
        GuestBackend(models).run(scenario(), lambda session, names=names: several(session, names))  # type: ignore[misc]
    return found


def everything(emit: Emit, models: dict[str, str], together: list[str], apart: list[str]) -> dict[str, Any]:
    """All that needs torch, in one boot: see the functions of these names."""
    return {
        "checked": run_checks(emit, models, together, apart),
        "outcome": outcome(emit, models),
        "accuracy": accuracy(emit, models),
    }


def outcome(emit: Emit, models: dict[str, str], tensors: str = "real") -> dict[str, Any]:
    """What one request came to, in plain types."""
    asked = scenario(tensors=tensors)
    found = GuestBackend(models).run(asked, lambda session: outcome_of_one_request(session, VKERNEL, asked))
    return {**plain(found), "torch": "torch" in sys.modules}


def plain(found: Outcome) -> dict[str, Any]:
    return {
        "answer": [data.hex() for data in found.answer],
        "whole": [data.hex() for data in found.whole],
        "sent": found.sent,
        "received": found.received,
        "transfers": [list(transfer) for transfer in found.transfers],
    }


def accuracy(emit: Emit, models: dict[str, str]) -> list[dict[str, float]]:
    """Warm transfers over the backbone at several rates and delays: measured and expected seconds."""

    async def main(session: Session) -> list[dict[str, float]]:
        found = []
        for link in ("access-d1", "core-c1"):  # far faster than the backbone, and without delay
            for direction in ("up", "down"):
                await session.apply_link(link, direction, LinkState(1e9, 0.0))  # type: ignore[arg-type]
        async with fleet_of(session) as fleet:
            for rate in RATES_BPS:
                for delay in DELAYS_S:
                    for direction in ("up", "down"):
                        await session.apply_link("backbone", direction, LinkState(rate, delay))  # type: ignore[arg-type]
                    for _ in range(6):  # slow start, until the window holds twice the path
                        await probe(fleet, "d1", "c1", 100_000 + int(rate * 2 * delay / 4))
                    for size in SIZES:
                        await asyncio.sleep(2.0)
                        seconds, sent, _ = await probe(fleet, "d1", "c1", size)
                        wire = frame_bytes(sent)
                        last = wire - (-(-sent // SEGMENT_PAYLOAD) - 1) * (SEGMENT_PAYLOAD + FRAME_OVERHEAD)
                        first = min(wire, SEGMENT_PAYLOAD + FRAME_OVERHEAD)
                        expected = wire * 8 / rate + delay + (first + last) * 8 / 1e9
                        found.append({"rate_bps": rate, "delay_s": delay, "bytes": sent, "s": seconds, "expected_s": expected})
        return found

    raw = to_plain(scenario())
    raw["links"]["backbone"]["queue"] = 10e6  # for the highest rate; nothing is to be dropped
    return GuestBackend(models).run(from_plain(raw), main)
