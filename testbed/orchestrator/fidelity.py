"""Whether a run can be trusted: the orchestrator's own invariants, joined with the backend's, to one verdict.

Bounds are stated here, each with its reason; the figures come from sessions (`pair.py`) and from `Session.invariants`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from testbed.backends.base import Invariant, Level, LinkCounters
from testbed.costs.network import FRAME_OVERHEAD, SEGMENT_PAYLOAD
from testbed.orchestrator.account import LinkBytes

Verdict = Literal["trusted", "degraded", "rejected"]
VERDICT: Mapping[Level, Verdict] = {"ok": "trusted", "degraded": "degraded", "rejected": "rejected"}
RANK: Mapping[Level, int] = {"ok": 0, "degraded": 1, "rejected": 2}

TRACE_LATE_S = (0.01, 0.1)
"""Lateness of a trace step: recorded traces have bins of 100 ms and up; a tenth of that blurs nothing, a whole bin does."""
LOOP_LATE_S = (0.02, 0.2)
"""Lateness of the orchestrator's own timer: requests would be submitted, and links changed, this much late."""
OVERRUN_SHARE = (0.01, 0.05)
"""Share of compute time by which real computation outlasted the model."""
BACKBONE_GAP = (0.005, 0.05)
"""Relative gap between counted and reported backbone bytes, after stated framing."""
BACKBONE_FREE_BYTES = 4096
"""Connection set-up, keep-alives and the like, which no report mentions."""


@dataclass
class PairFacts:
    """What is known of one (model, planner) session when it is over. `cut_short`: ended without waiting for hosts whose bytes
    may have travelled all the same (`fallback`, `absent_devices` of inferences.csv), and uploads that were begun again. `shed`:
    refused because there were too many; not among the `failed`."""

    model: str
    planner: str
    requests: int = 0
    over: int = 0
    failed: int = 0
    shed: int = 0
    cut_short: int = 0
    stray_ends: int = 0
    missing_reports: int = 0
    unbalanced_bytes: int = 0
    checked: int = 0
    wrong: int = 0
    max_rel_error: float = 0.0
    trace_late_s: float = 0.0
    loop_late_s: float = 0.0
    compute_s: float = 0.0
    overrun_s: float = 0.0
    gaps: dict[str, float] = field(default_factory=dict)


def backbone_gap(counted: LinkCounters, up: LinkBytes, down: LinkBytes, loss: float, complete: bool = True) -> float:
    """Relative gap between the bytes counted on a link direction and those reported to have crossed it.

    Reported bytes are framed message by message, which is the most they can take without loss: several messages may share a
    frame. Acknowledgements of the other direction's data may add up to one frame of 66 bytes per segment, and loss its
    share of retransmissions. A count inside these limits has no gap. Unless `complete`, requests failed, and what they sent
    before that was counted and never reported: then there is no upper limit.
    """
    least = up.message_bytes * (SEGMENT_PAYLOAD + FRAME_OVERHEAD) / SEGMENT_PAYLOAD
    acknowledgements = FRAME_OVERHEAD * (down.message_bytes / SEGMENT_PAYLOAD + 2.0 * down.messages)
    most = (up.framed_bytes + acknowledgements) * (1.0 + 3.0 * loss) + BACKBONE_FREE_BYTES
    if least <= counted.wire_bytes and (counted.wire_bytes <= most or not complete):
        return 0.0
    outside = least - counted.wire_bytes if counted.wire_bytes < least else counted.wire_bytes - most
    return outside / max(least, float(BACKBONE_FREE_BYTES))


def _level(value: float, bounds: tuple[float, float]) -> Level:
    return "ok" if value <= bounds[0] else "degraded" if value <= bounds[1] else "rejected"


def _failure_level(facts: PairFacts) -> Level:
    """Latencies of a session in which requests failed are those of the others only; one without an answer has none at all."""
    if facts.requests and facts.failed + facts.shed >= facts.requests:
        return "rejected"
    return "degraded" if facts.failed else "ok"


def invariants_of(facts: PairFacts) -> list[Invariant]:
    """The orchestrator's invariants of one session."""
    share = facts.overrun_s / facts.compute_s if facts.compute_s > 0.0 else 0.0
    failed = facts.failed / facts.requests if facts.requests else 0.0
    refused = f", {facts.shed} shed" if facts.shed else ""
    lost = facts.requests - facts.over + facts.stray_ends
    gap_at = max(facts.gaps, key=lambda name: facts.gaps[name], default="")
    gap = facts.gaps.get(gap_at, 0.0)
    wrong = (
        f"{facts.wrong} of {facts.checked} answers are not the whole model's; largest relative error {facts.max_rel_error:.1e}"
    )
    return [
        Invariant("answers", "rejected" if facts.wrong else "ok", float(facts.wrong), 0.0, wrong),
        Invariant(
            "failed_requests",
            _failure_level(facts),
            failed,
            0.0,
            f"share of requests: {facts.failed} of {facts.requests} failed{refused}",
        ),
        Invariant("one_ending_each", "rejected" if lost else "ok", float(lost), 0.0, "requests without an end, or with a second"),
        Invariant(
            "reports", "degraded" if facts.missing_reports else "ok", float(facts.missing_reports), 0.0, "reports that never came"
        ),
        Invariant(
            "sender_receiver_bytes",
            "degraded" if facts.unbalanced_bytes else "ok",
            float(facts.unbalanced_bytes),
            0.0,
            "bytes that hosts sent for answered requests and no host received, or the other way round",
        ),
        Invariant(
            "trace_lateness_s", _level(facts.trace_late_s, TRACE_LATE_S), facts.trace_late_s, TRACE_LATE_S[0], "latest step"
        ),
        Invariant("event_loop_lag_s", _level(facts.loop_late_s, LOOP_LATE_S), facts.loop_late_s, LOOP_LATE_S[0], "latest tick"),
        Invariant("compute_overrun", _level(share, OVERRUN_SHARE), share, OVERRUN_SHARE[0], "share of compute time"),
        Invariant("backbone_bytes", _level(gap, BACKBONE_GAP), gap, BACKBONE_GAP[0], gap_at or "no wide-area link was used"),
    ]


def worst(invariants: Iterable[Invariant]) -> Level:
    """The worst level among invariants ("ok" for none)."""
    return max((invariant.level for invariant in invariants), key=lambda level: RANK[level], default="ok")


def _worded(invariant: Invariant) -> str:
    """An invariant that does not hold, in one line: its level, figure, bound and detail."""
    figure = "" if invariant.value is None else f" = {invariant.value:.4g}"
    bound = "" if invariant.bound is None else f" (bound {invariant.bound:g})"
    return f"{invariant.name}{figure}{bound}, {invariant.level}" + (f": {invariant.detail}" if invariant.detail else "")


def _shown(invariants: Sequence[Invariant]) -> list[dict[str, Any]]:
    return [asdict(invariant) for invariant in invariants]


def document(pairs: Sequence[PairFacts], backend: Sequence[Invariant], unfinished: str | None) -> dict[str, Any]:
    """The content of fidelity.json. `unfinished` says why the run did not reach its end; then the verdict is "rejected"."""
    common = list(backend)
    if unfinished is not None:
        common.append(Invariant("run_complete", "rejected", 0.0, 1.0, unfinished))
    sessions = []
    failing = [_worded(i) for i in common if i.level != "ok"]
    overall = worst(common)
    for facts in pairs:
        own = invariants_of(facts)
        level = max(worst(own), worst(common), key=lambda item: RANK[item])
        overall = max(overall, level, key=lambda item: RANK[item])
        failing += [f"{facts.model}/{facts.planner}: {_worded(i)}" for i in own if i.level != "ok"]
        sessions.append(
            {
                "model": facts.model,
                "planner": facts.planner,
                "verdict": VERDICT[level],
                "facts": asdict(facts),
                "invariants": _shown(own),
            }
        )
    return {"verdict": VERDICT[overall], "failing": failing, "backend": _shown(common), "sessions": sessions}
