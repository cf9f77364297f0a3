"""Whatever goes wrong, every request ends exactly once, in time, rightly or with a named error, and leaves nothing behind.

Scenarios are drawn from seeds (`chaos.py`; `chaos_kinds.py` draws every kind of planner and of request). A failure names its
seed; `D3_CHAOS_SEED=N` runs that one alone, and `D3_CHAOS_RUNS=N` so many seeds from 1 on, in each test:

    D3_CHAOS_SEED=17 python -m pytest tests/test_chaos.py -k every_kind_with_sizes
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, get_args

import chaos_kinds
import pytest
from chaos import QUIET_S, Ended, Watched, carry_out, draw

from testbed import registry
from testbed.backends.base import Session
from testbed.backends.mininet import MininetBackend
from testbed.backends.mininet_support import kernel
from testbed.backends.sim import SimBackend, SimSession
from testbed.scenario.faults import FaultKind
from testbed.scenario.schema import Scenario

KEPT_S = 130.0
"""Tensors that are kept, and plans that are retired, are gone after two minutes; what waits for the last resort is a leak."""

LONG_S = 1000.0
"""By then the last timer of an agent that has nothing to do has run out."""


def seeds(count: int, long: int = 0) -> list[Any]:
    """The seeds of a test that runs so many if nothing else is said, and of so many more among the long tests."""
    if one := os.environ.get("D3_CHAOS_SEED"):
        return [int(one)]
    if more := os.environ.get("D3_CHAOS_RUNS"):
        return list(range(1, 1 + int(more)))
    first = [pytest.param(seed, marks=pytest.mark.slow) if long else seed for seed in range(1, 1 + count)]
    return [*first, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1 + count, 1 + count + long))]


def judge(ended: Ended, test: str) -> None:
    """Raise for whatever was not as it must be, in words that lead back to it. `test`: what of its name `-k` needs."""
    if ended.wrong:
        asked = ended.scenario
        lines = [f"seed {asked.seed} ({asked.name}): {len(ended.wrong)} promises broken", *ended.wrong[:20]]
        lines += [f"planners {asked.planning.planners}, {asked.recovery}, {asked.requests.arrival}, route {asked.network.route}"]
        lines += [f"fault {n}: {fault.model_dump(exclude_none=True)}" for n, fault in enumerate(asked.fault, 1)]
        pytest.fail(
            "\n".join([*lines, f"D3_CHAOS_SEED={asked.seed} python -m pytest tests/test_chaos.py -k {test} replays it"]),
            pytrace=False,
        )


async def left_in_sim(session: Session) -> list[str]:
    """Connections, messages, timers and stopped agents that should not be there when nothing has happened for long."""
    assert isinstance(session, SimSession)
    await asyncio.sleep(LONG_S)
    fabric, loop = session.fabric, session.fabric.loop
    found = [f"{name} is halted" for name in session.layout.by_name if loop.halted(name)]
    if fabric.in_flight or fabric.in_flight_bytes:
        found.append(f"{fabric.in_flight} messages of {fabric.in_flight_bytes} B are on their way")
    dialled: dict[tuple[str, str], int] = {}
    for host, channels in fabric.channels.items():
        for channel in channels:
            if channel.peer.startswith("control:") or host == "orchestrator":
                found.append(f"a control channel between {host} and {channel.peer}")
            elif "#" not in channel.peer:
                dialled[host, channel.peer] = dialled.get((host, channel.peer), 0) + 1
    uploads = [name for name in session._scenario.planning.planners if name.startswith("ionn")]  # another one, for weights
    most = 2 if uploads else 1
    found += [f"{count} connections from {host} to {peer}" for (host, peer), count in dialled.items() if count > most]
    timers = [entry[2] for entry in loop._timers if not entry[2].cancelled()]
    found += [f"a timer at {timer.when():.3f} s: {timer!r}" for timer in timers]
    return found


def in_sim(asked: Scenario, test: str, folder: Path) -> Ended:
    ended = carry_out(asked, Watched(SimBackend(), KEPT_S, left_in_sim), folder / "run")
    judge(ended, test)
    return ended


@pytest.mark.parametrize("seed", seeds(2, long=2))
def test_chaos_over_the_simulator_with_real_tensors(seed: int, tmp_path: Path) -> None:
    in_sim(draw(seed, tensors="real", requests=30), "simulator_with_real", tmp_path)


@pytest.mark.parametrize("seed", seeds(10, long=50))
def test_chaos_over_the_simulator_with_sizes(seed: int, tmp_path: Path) -> None:
    in_sim(draw(seed, tensors="sizes", requests=60), "simulator_with_sizes", tmp_path)


@pytest.mark.parametrize("seed", seeds(2, long=8))
def test_chaos_of_every_kind_with_real_tensors(seed: int, tmp_path: Path) -> None:
    in_sim(chaos_kinds.draw(seed, tensors="real", requests=20, lasts_s=5.0), "every_kind_with_real", tmp_path)


@pytest.mark.parametrize("seed", seeds(10, long=50))
def test_chaos_of_every_kind_with_sizes(seed: int, tmp_path: Path) -> None:
    in_sim(chaos_kinds.draw(seed, tensors="sizes", requests=24, lasts_s=5.0), "every_kind_with_sizes", tmp_path)


@pytest.mark.emulation
@pytest.mark.parametrize("seed", seeds(1, long=3))
def test_chaos_over_mininet(seed: int, tmp_path: Path) -> None:
    asked = draw(seed, tensors="real", requests=60, netem=bool(kernel()["netem"]), lasts_s=4.0)
    judge(carry_out(asked, Watched(MininetBackend(), QUIET_S), tmp_path / "run"), "over_mininet")


@pytest.mark.emulation
@pytest.mark.parametrize("seed", seeds(0, long=4))
def test_chaos_of_every_kind_in_mininet(seed: int, tmp_path: Path) -> None:
    asked = chaos_kinds.draw(seed, tensors="real", requests=20, netem=bool(kernel()["netem"]), lasts_s=4.0)
    judge(carry_out(asked, Watched(MininetBackend(), QUIET_S), tmp_path / "run"), "every_kind_in_mininet")


def test_every_kind_and_every_planner_is_drawn() -> None:
    drawn = [chaos_kinds.draw(seed, tensors="sizes", requests=24) for seed in range(1, 200)]
    assert {asked.name.split("-")[1] for asked in drawn} == set(chaos_kinds.KINDS)
    assert {name for asked in drawn for name in asked.planning.planners} >= set(registry.planners())
    assert {fault.kind for asked in drawn for fault in asked.fault} == set(get_args(FaultKind))


def test_a_device_that_is_another_one_when_the_orchestrator_comes_back_is_given_plans_again(tmp_path: Path) -> None:
    """Chaos found it (seed 261): killed and restarted in the meantime, the device answered and knew of no plan ever after."""
    asked = draw(261, tensors="sizes", requests=40)
    assert [fault.kind for fault in asked.fault] == ["down", "kill", "flap", "orchestrator", "kill"]
    ended = carry_out(asked, Watched(SimBackend(), KEPT_S, left_in_sim), tmp_path / "run")
    judge(ended, "another_one")
    assert not ended.failed
    assert ended.recoveries


def test_a_plan_within_limits_that_cannot_be_had_for_now_ends_no_run(tmp_path: Path) -> None:
    """Chaos found it (seed 230): all hosts were back, on slow links, and no exit of the network met Edgent's deadline."""
    asked = chaos_kinds.draw(230, tensors="sizes", requests=24, lasts_s=5.0)
    assert "edgent" in asked.planning.planners
    judge(carry_out(asked, Watched(SimBackend(), KEPT_S, left_in_sim), tmp_path / "run"), "limits")
    assert '"replan": "kept"' in (tmp_path / "run" / "plans.jsonl").read_text()
