"""Replay: every step of every trace at its exact time, in the right direction, and again from the start for each session."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from orchestration import layout, virtual

from testbed.orchestrator.replay import Replay, sleep_until, timeline
from testbed.orchestrator.truth import TrueState
from testbed.scenario.links import ResolvedHost, ResolvedLink
from testbed.scenario.state import LinkState
from traces.trace import Trace

RATES = Trace("rates", (0.0, 0.1, 0.35), {"rate_bps": (8e6, 2e6, 0.0)}, 0.5, loop=True)
SHARES = Trace("shares", (0.0, 0.35), {"cpu_share": (1.0, 0.25)}, 1.0, loop=False)


def link(direction: str = "up", offset: float = 0.0) -> ResolvedLink:
    first = RATES.at(offset)["rate_bps"]
    traced, fixed = LinkState(first, 0.01), LinkState(5e6, 0.01)
    up = traced if direction in ("up", "both") else fixed
    down = traced if direction in ("down", "both") else fixed
    return ResolvedLink("backbone", "backbone", up, down, trace=RATES, trace_direction=direction, trace_offset_s=offset)  # type: ignore[arg-type]


def play(links: list[ResolvedLink], hosts: list[ResolvedHost], seconds: float, lag: float = 0.0, again: bool = False):  # type: ignore[no-untyped-def]
    seen: list[tuple[float, str, str, object]] = []
    start = 0.0

    async def main() -> Replay:
        nonlocal start
        loop = asyncio.get_running_loop()

        async def apply_link(name: str, direction: str, state: LinkState) -> None:
            await asyncio.sleep(lag)
            seen.append((loop.time() - start, name, direction, state.rate_bps))

        async def apply_share(name: str, share: float) -> None:
            seen.append((loop.time() - start, name, "share", share))

        truth = TrueState(layout())
        replay = Replay({x.name: x for x in links}, {x.name: x for x in hosts}, truth, apply_link, apply_share)
        for _ in range(2 if again else 1):
            seen.clear()
            start = float("inf")
            await replay.reset()
            await asyncio.sleep(1.7)
            start = loop.time()
            task = asyncio.create_task(replay.run(start))
            await sleep_until(start + seconds)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return replay

    return virtual(main()), seen


def test_steps_happen_at_their_exact_times_and_loop() -> None:
    replay, seen = play([link()], [], 1.2)
    steps = [(round(at, 12), rate) for at, _, direction, rate in seen if at > 0 and direction == "up"]
    assert steps == [(0.1, 2e6), (0.35, 0.0), (0.5, 8e6), (0.6, 2e6), (0.85, 0.0), (1.0, 8e6), (1.1, 2e6)]
    assert max(done.late_s for done in replay.done) < 1e-12
    assert not [rate for at, _, direction, rate in seen if direction == "down" and at > 0]


def test_both_directions_and_an_offset() -> None:
    _, seen = play([link("both", offset=0.3)], [], 0.3)
    later = [(round(at, 12), direction, rate) for at, _, direction, rate in seen if at > 0]
    assert later == [(0.05, "up", 0.0), (0.05, "down", 0.0), (0.2, "up", 8e6), (0.2, "down", 8e6)]


def test_host_shares_are_replayed_among_the_links() -> None:
    host = ResolvedHost("e1", "edge", trace=SHARES, trace_offset_s=0.05)
    _, seen = play([link("down")], [host], 0.4)
    assert [(round(at, 12), name, rate) for at, name, _, rate in seen if at > 0] == [
        (0.1, "backbone", 2e6),
        (0.3, "e1", 0.25),
        (0.35, "backbone", 0.0),
    ]


def test_lateness_of_a_slow_network_is_on_record() -> None:
    replay, _ = play([link()], [], 0.4, lag=0.02)
    assert [round(done.late_s, 9) for done in replay.done if done.step.at_s > 0] == [0.02, 0.02]


def test_every_session_starts_from_the_first_state() -> None:
    _, seen = play([link()], [ResolvedHost("e1", "edge")], 0.2, again=True)
    assert [(name, rate) for at, name, _, rate in seen if at <= 0] == [("backbone", 8e6)], "what is in place is left alone"
    assert [round(at, 12) for at, *_ in seen if at > 0] == [0.1]


def test_a_trace_that_never_changes_has_no_steps() -> None:
    flat = Trace("flat", (0.0, 1.0), {"rate_bps": (5e6, 5e6)}, 2.0, loop=True)
    state = LinkState(5e6)
    assert list(timeline({"x": ResolvedLink("x", "backbone", state, state, trace=flat)}, {})) == []
