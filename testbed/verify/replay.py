"""How well a link follows a trace: a greedy flow while the orchestrator's own replay changes the link, against the trace.

What the link delivers in a window is compared with what the trace allows in it, in payload bytes (1448 of every 1514 of a frame).
It is counted by the receiving host's interface: a program that reads a TCP stream gets nothing for a while
when one frame is missing, and a lot at once when it was sent again, which is no property of the link (what it read in all is
reported too). Outages are windows of their own: nothing may be delivered in them but what was on its way. The measuring runs
where the network is (in the time-travel kernel as a job); `run` is the side that asks for it.
"""

from __future__ import annotations

import asyncio
import csv
import statistics
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from testbed import registry
from testbed.backends.mininet import MininetBackend
from testbed.backends.netspec import burst_bytes
from testbed.costs.network import FRAME_OVERHEAD, SEGMENT_PAYLOAD
from testbed.errors import InputError
from testbed.kernel import guest
from testbed.kernel.boot import Job
from testbed.orchestrator.replay import Replay, sleep_until
from testbed.orchestrator.truth import TrueState
from testbed.scenario.links import ResolvedLink, links_of
from testbed.scenario.schema import Scenario
from testbed.scenario.state import LinkState
from testbed.verify.bare import LINK, SOURCE, TARGET, BareGuest, BareMininet, scenario
from testbed.verify.flows import Arrived, Connection
from testbed.verify.links import GUEST_MIB, Listener, installed
from topologies.addresses import address

CUMULATIVE_LIMIT, WINDOW_LIMIT, LATE_LIMIT_S = 0.01, 0.03, 0.001
"""Allowed: relative error of all bytes, median of the windows' absolute relative errors, and lateness of any step."""

WINDOW_S = 0.2
WARM_UP_S = 5.0
"""How long the flow runs at the trace's mean rate before the replay starts, so that slow start is not held against the link."""

BACKENDS = ("vkernel", "mininet")
_PAYLOAD = SEGMENT_PAYLOAD / (SEGMENT_PAYLOAD + FRAME_OVERHEAD)


@dataclass(frozen=True)
class Followed:
    """One trace: payload bytes allowed and delivered in each window, and how late its steps were in force.

    `outage_bytes`: delivered in windows in which the link was shut throughout; up to `on_the_wire_bytes` for each outage had left
    the queue when it began (a frame on the wire, one that HTB lets go ahead of its tokens, one that the closing gate lets
    through). `read_bytes`: what the receiving program read meanwhile. `frames` were counted by the link, `dropped_frames` by its
    queue.
    """

    trace: str
    congestion: str
    delay_s: float
    window_s: float
    allowed: tuple[float, ...]
    delivered: tuple[float, ...]
    steps: int
    late_s: float
    outages: int
    outage_bytes: int
    on_the_wire_bytes: int
    read_bytes: int
    frames: int = 0
    dropped_frames: int = 0
    resent_segments: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def cumulative(self) -> float:
        """Relative error of all bytes; below 0 where fewer were delivered than the trace allows."""
        return sum(self.delivered) / sum(self.allowed) - 1.0

    @property
    def window(self) -> float:
        """Median over the windows (outages apart) of the absolute relative error."""
        return statistics.median(abs(d / a - 1.0) for a, d in zip(self.allowed, self.delivered, strict=True) if a > 0.0)

    @property
    def problems(self) -> list[str]:
        """What does not hold, in sentences."""
        found = []
        if abs(self.cumulative) > CUMULATIVE_LIMIT:
            found.append(f"{self.trace}: all bytes are off by {self.cumulative:+.2%}, more than {CUMULATIVE_LIMIT:.0%}")
        if self.window > WINDOW_LIMIT:
            found.append(f"{self.trace}: the median window is off by {self.window:.2%}, more than {WINDOW_LIMIT:.0%}")
        if self.late_s > LATE_LIMIT_S:
            found.append(f"{self.trace}: a step was {self.late_s * 1e3:.2f} ms late, more than {LATE_LIMIT_S * 1e3:g} ms")
        if self.outage_bytes > self.outages * self.on_the_wire_bytes:
            bound = f"more than {self.on_the_wire_bytes} B for each"
            found.append(f"{self.trace}: {self.outage_bytes} bytes came through {self.outages} outages, {bound}")
        return found


def asked(trace: str, directory: str, delay_s: float, congestion: str) -> Scenario:
    """The scenario that a trace is followed in: the trace on the backbone's way up, its delay both ways."""
    link = {"trace": trace, "trace_direction": "up", "rate_down": "1 Gbit/s", "delay": f"{delay_s * 1e3:.9g} ms"}
    return scenario(link, network={"congestion_control": congestion}, directory=directory)


def run(
    traces: Sequence[str],
    backend: str = "vkernel",
    seconds: float = 60.0,
    delay_s: float = 0.01,
    congestion: str = "cubic",
    listener: Listener | None = None,
) -> list[Followed]:
    """Follow each trace for so many seconds (from its start again where it is shorter), all in one boot.

    Raises TraceError for one that cannot be read, InputError for one without a rate, BackendError where it cannot be run.
    """
    listen = listener or (lambda _event: None)
    arguments = {
        "traces": list(traces),
        "directory": str(Path.cwd()),
        "seconds": seconds,
        "delay_s": delay_s,
        "congestion": congestion,
    }
    for trace in traces:
        _check(asked(trace, arguments["directory"], delay_s, congestion))  # type: ignore[arg-type]
    if backend == "mininet":
        found = follow_all(BareMininet(), lambda name, **fields: listen({"event": name, **fields}), **arguments)  # type: ignore[arg-type]
        return [_followed(one, {}) for one in found]
    if backend != "vkernel":
        raise InputError(f"traces cannot be followed on backend {backend!r}; on these they can: {', '.join(BACKENDS)}")
    outcome = guest.run(installed(), Job("testbed.verify.replay:follow_in_guest", arguments, memory_mib=GUEST_MIB), listen)
    return [_followed(one, outcome.facts) for one in outcome.result]


def _check(wanted: Scenario) -> None:
    link = links_of(wanted, registry.layout(wanted.topology))[LINK]
    assert link.trace is not None
    if max(link.trace.columns.get("rate_bps", (0.0,))) <= 0.0:
        raise InputError(f"trace {link.trace.name!r} has no rate above 0: there is nothing to follow")


def _followed(raw: dict[str, Any], facts: dict[str, Any]) -> Followed:
    raw["facts"] = {**raw["facts"], **({"guest": facts} if facts else {})}
    return Followed(**{**raw, "allowed": tuple(raw["allowed"]), "delivered": tuple(raw["delivered"])})


# -- where the network is -----------------------------------------------------------------------------------------------------


def follow_in_guest(emit: Callable[..., None], **arguments: Any) -> list[dict[str, Any]]:
    """The job of the time-travel kernel."""
    return follow_all(BareGuest({}), emit, **arguments)


def follow_all(
    backend: MininetBackend,
    emit: Callable[..., None],
    traces: list[str],
    directory: str,
    seconds: float,
    delay_s: float,
    congestion: str,
) -> list[dict[str, Any]]:
    """Follow each trace on a network of its own."""
    found = []
    for trace in traces:
        wanted = asked(trace, directory, delay_s, congestion)

        async def main(session: Any, wanted: Scenario = wanted) -> dict[str, Any]:
            return asdict(await follow(session, wanted, seconds))

        emit("following", trace=trace)
        found.append(backend.run(wanted, main))
        emit("followed", trace=trace, done=len(found), total=len(traces))
    return found


async def follow(session: Any, wanted: Scenario, seconds: float) -> Followed:
    """A greedy flow over the backbone while the orchestrator's replay changes it."""
    loop = asyncio.get_running_loop()
    links = links_of(wanted, session.layout)
    link = links[LINK]
    assert link.trace is not None
    truth = TrueState(session.layout)
    reads: list[tuple[float, int]] = []

    async def no_share(_host: str, _share: float) -> None:
        raise AssertionError("no host here has a trace")

    rates = link.trace.columns["rate_bps"]
    await session.apply_link(LINK, "up", LinkState(sum(rates) / len(rates), link.up.delay_s))
    congestion = wanted.network.congestion_control
    where = address(session.layout, TARGET, SOURCE)
    namespaces = await session.namespaces()
    arrived = Arrived(namespaces[TARGET])
    connection = Connection.open(namespaces, SOURCE, TARGET, where, congestion)
    congestion = connection.congestion
    flow = threading.Thread(
        target=connection.greedy, args=(WARM_UP_S + seconds + link.up.delay_s, lambda *read: reads.append(read))
    )
    flow.start()
    await asyncio.sleep(WARM_UP_S)
    before, resent = (await session.counters())[LINK, "up"], connection.resent
    replay = Replay(links, {}, truth, session.apply_link, no_share)
    await replay.reset()
    start = loop.time()
    replaying = asyncio.create_task(replay.run(start))
    begin = start + link.up.delay_s  # what the link lets go now arrives a delay later
    allowed = allowances(link, seconds)
    counted = []
    for k in range(len(allowed) + 1):
        await sleep_until(begin + k * WINDOW_S)
        counted.append(arrived.bytes)
    after, resent = (await session.counters())[LINK, "up"], connection.resent - resent
    replaying.cancel()
    await asyncio.gather(replaying, return_exceptions=True)
    await loop.run_in_executor(None, flow.join)
    arrived.close()
    delivered = [(last - first) * _PAYLOAD for first, last in pairwise(counted)]
    shut = [k for k, bytes_ in enumerate(allowed) if bytes_ == 0.0]
    return Followed(
        trace=link.trace.name,
        congestion=congestion,
        delay_s=link.up.delay_s,
        window_s=WINDOW_S,
        allowed=tuple(allowed),
        delivered=tuple(delivered),
        steps=len(replay.done),
        late_s=max(done.late_s for done in replay.done),
        outages=sum(1 for k in shut if k - 1 not in shut),
        outage_bytes=int(sum(delivered[k] for k in shut)),
        read_bytes=sum(count for moment, count in reads if begin <= moment < begin + seconds),
        on_the_wire_bytes=3 * SEGMENT_PAYLOAD + burst_bytes(max(rates)),
        frames=after.packets - before.packets,
        dropped_frames=after.drops - before.drops,
        resent_segments=resent,
        facts=session.describe(),
    )


def allowances(link: ResolvedLink, seconds: float) -> list[float]:
    """Payload bytes that a link's trace allows in each window of `WINDOW_S`."""
    times, rates = [0.0], [link.up.rate_bps]
    for moment, state in link.steps("up"):
        if moment >= seconds:
            break
        times.append(moment)
        rates.append(state.rate_bps)
    ends = [*times[1:], float("inf")]
    found = []
    for k in range(int(seconds / WINDOW_S + 1e-9)):
        a, b = k * WINDOW_S, (k + 1) * WINDOW_S
        row, total = bisect_right(times, a) - 1, 0.0
        while row < len(times) and times[row] < b:
            total += rates[row] * max(0.0, min(b, ends[row]) - max(a, times[row]))
            row += 1
        found.append(total / 8.0 * _PAYLOAD)
    return found


def write_csv(followed: Followed, path: Path) -> None:
    """One line for each window."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("at_s", "allowed_bytes", "delivered_bytes"))
        for k, (allowed, delivered) in enumerate(zip(followed.allowed, followed.delivered, strict=True)):
            writer.writerow((f"{k * followed.window_s:.9g}", f"{allowed:.1f}", f"{delivered:.0f}"))
