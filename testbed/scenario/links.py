"""The links and hosts of a layout with what a scenario says of them: role table first, then the name's own table over it.

Reads traces (through `traces.load`); building the network and replaying the traces is left to backends and orchestrator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

from testbed.errors import ScenarioError, TraceError
from testbed.names import suggestion
from testbed.scenario.schema import HostTable, LinkTable, Scenario, Table
from testbed.scenario.state import LinkState
from topologies.layout import Direction, Layout
from traces.errors import TraceFormatError
from traces.load import load as load_trace
from traces.trace import Trace

DEFAULT_RATE_BPS: Mapping[str, float] = {"access": 84.95e6, "lan": 1e9, "core": 1e9}
"""Rate of a link that a scenario gives none: the Wi-Fi rate between device and edge of D3's evaluation, and Gigabit Ethernet.

Roles that are not here (backbone, cellular, those of other topologies) have no sensible default: the scenario must say.
Delay and loss default to 0, the queue to one that the backend derives.
"""

NO_TRACE = "none"
"""A trace of this name takes away the one that the scenario, or the role's table, gave."""

T = TypeVar("T", bound=Table)


@dataclass(frozen=True)
class ResolvedLink:
    """One link as a scenario describes it; `up` and `down` are its states at scenario time 0, the trace included.

    `trace` is already scaled and looped as asked; scenario time t is trace time `trace_offset_s + t`. `queue_bytes` None:
    the backend derives it from rate and delay.
    """

    name: str
    role: str
    up: LinkState
    down: LinkState
    queue_bytes: int | None = None
    trace: Trace | None = None
    trace_direction: Literal["up", "down", "both"] = "both"
    trace_offset_s: float = 0.0
    trace_loop: bool = True
    idle_keys: tuple[str, ...] = ()
    """Keys that do nothing, because a trace in the same table does."""

    def state(self, direction: Direction) -> LinkState:
        """State of a direction at scenario time 0."""
        return self.up if direction == "up" else self.down

    def traced(self, direction: Direction) -> bool:
        """True when the trace changes this direction."""
        return self.trace is not None and self.trace_direction in (direction, "both")

    def at(self, direction: Direction, time_s: float) -> LinkState:
        """State of a direction at a scenario time."""
        if self.trace is None or not self.traced(direction):
            return self.state(direction)
        return _over(self.state(direction), self.trace.at(self.trace_offset_s + time_s))

    def steps(self, direction: Direction) -> Iterator[tuple[float, LinkState]]:
        """(scenario time, state) of every change of a direction after time 0; endless where the trace loops."""
        if self.trace is None or not self.traced(direction):
            return
        for moment, values in self.trace.steps(self.trace_offset_s):
            if moment > self.trace_offset_s:
                yield moment - self.trace_offset_s, _over(self.state(direction), values)


@dataclass(frozen=True)
class ResolvedHost:
    """One host as a scenario describes it. `profile` None: the default description of its tier. Trace as in `ResolvedLink`.
    `memory_bytes`, `cpus` None: no limit."""

    name: str
    tier: str
    profile: str | None = None
    speed: float = 1.0
    trace: Trace | None = None
    trace_offset_s: float = 0.0
    memory_bytes: float | None = None
    cpus: float | None = None


def links_of(scenario: Scenario, layout: Layout) -> dict[str, ResolvedLink]:
    """Every link of the layout by name.

    Raises ScenarioError for a table whose role or name the layout does not have, or a link without a rate; TraceError for
    a trace that is missing or cannot be read.
    """
    roles = {link.role for link in layout.links}
    _check_keys("links", scenario.links, roles, layout.link_names, layout)
    found = {}
    for link in layout.links:
        tables = [scenario.links[key] for key in dict.fromkeys((link.role, link.name)) if key in scenario.links]
        resolved = _resolve(scenario, link.name, link.role, _merged(LinkTable, tables))
        meant = {key for key in resolved.idle_keys if any(getattr(table, key) is not None and table.trace for table in tables)}
        found[link.name] = replace(resolved, idle_keys=tuple(sorted(meant)))
    return found


def hosts_of(scenario: Scenario, layout: Layout) -> dict[str, ResolvedHost]:
    """Every host of the layout by name; errors as for links."""
    tiers: set[str] = {host.tier for host in layout.hosts}
    _check_keys("hosts", scenario.hosts, tiers, tuple(layout.by_name), layout)
    found = {}
    for host in layout.hosts:
        tables = [scenario.hosts[key] for key in (host.tier, host.name) if key in scenario.hosts]
        table = _merged(HostTable, tables)
        where = f"hosts.{host.name}.trace"
        _needs_trace(f"hosts.{host.name}", table)
        if table.backlog is not None and host.tier == "device":
            raise ScenarioError(
                f"[hosts.{host.name}]: backlog does nothing on a device, where requests begin: requests.queue bounds them there"
            )
        trace = None if table.trace is None else trace_of(scenario, table.trace, table.trace_loop, where, ("cpu_share",))
        found[host.name] = ResolvedHost(
            name=host.name,
            tier=host.tier,
            profile=table.profile,
            speed=1.0 if table.speed is None else table.speed,
            trace=trace,
            trace_offset_s=table.trace_offset or 0.0,
            memory_bytes=table.memory,
            cpus=table.cpus,
        )
    return found


def idle_words(links: Mapping[str, ResolvedLink]) -> list[str]:
    """A sentence for every key that a trace leaves without effect."""
    return [
        f"links: the {key} of {link.name} does nothing: its trace gives it (trace = {NO_TRACE!r} takes the trace away)"
        for link in links.values()
        for key in link.idle_keys
    ]


def _check_keys(table: str, given: Mapping[str, object], groups: set[str], names: tuple[str, ...], layout: Layout) -> None:
    kind = "link" if table == "links" else "host"
    group = "role" if table == "links" else "tier"
    for key in given:
        if key not in groups and key not in names:
            known = sorted(groups | set(names))
            raise ScenarioError(
                f"[{table}.{key}]: topology {layout.name!r} as sized here has no {kind} or {group} {key!r}"
                f"{suggestion(key, known, f'it has the {group}s and {kind}s')}"
            )


def _needs_trace(where: str, table: LinkTable | HostTable) -> None:
    if table.trace is None:
        for key in sorted(table.model_fields_set):
            if key.startswith("trace_") and getattr(table, key) is not None:
                raise ScenarioError(f"{where}.{key} is given, but no trace: it would do nothing")


def _merged(kind: type[T], tables: list[T]) -> T:
    values: dict[str, Any] = {}
    for table in tables:
        values.update({key: value for key in table.model_fields_set if (value := getattr(table, key)) is not None})
    if values.get("trace") == NO_TRACE:
        values = {key: value for key, value in values.items() if not key.startswith("trace")}
    return cast(T, kind.model_construct(**values))


def _resolve(scenario: Scenario, name: str, role: str, table: LinkTable) -> ResolvedLink:
    _needs_trace(f"links.{name}", table)
    trace = None
    if table.trace is not None:
        trace = trace_of(scenario, table.trace, table.trace_loop, f"links.{name}.trace", ("rate_bps", "delay_s", "loss"))
        if table.trace_scale is not None:
            if "rate_bps" not in trace.columns:
                raise ScenarioError(f"links.{name}.trace_scale: trace {table.trace!r} has no rate to scale")
            trace = trace.scaled("rate_bps", table.trace_scale)
    direction = table.trace_direction or "both"
    offset_s = table.trace_offset or 0.0
    first = {} if trace is None else trace.at(offset_s)
    states = {}
    used = set()
    for towards in ("up", "down"):
        traced = direction in (towards, "both")
        rate = table.rate if towards == "up" or table.rate_down is None else table.rate_down
        if not (traced and "rate_bps" in first):
            used.add("rate" if towards == "up" or table.rate_down is None else "rate_down")
        if rate is None and not (traced and "rate_bps" in first):
            rate = _default_rate(name, role, towards)
        jitter = table.jitter or 0.0
        state = LinkState(rate_bps=rate or 0.0, delay_s=table.delay or 0.0, loss=table.loss or 0.0, jitter_s=jitter)
        states[towards] = _over(state, first) if traced else state
    delays = (
        [state.delay_s for state in states.values()] if trace is None else trace.columns.get("delay_s", (table.delay or 0.0,))
    )
    if (table.jitter or 0.0) > min(delays):
        raise ScenarioError(f"links.{name}.jitter: {table.jitter} s is more than the delay ({min(delays)} s) that it varies")
    return ResolvedLink(
        name=name,
        role=role,
        up=states["up"],
        down=states["down"],
        queue_bytes=None if table.queue is None else int(table.queue),
        trace=trace,
        trace_direction=direction,
        trace_offset_s=offset_s,
        trace_loop=trace.loop if trace is not None else True,
        idle_keys=tuple(key for key in ("rate", "rate_down") if getattr(table, key) is not None and key not in used),
    )


def _default_rate(name: str, role: str, direction: str) -> float:
    if role not in DEFAULT_RATE_BPS:
        key = "rate" if direction == "up" else "rate_down"
        raise ScenarioError(
            f'link "{name}" has no rate in the {direction} direction: give "{key}" (or a trace) in [links.{role}]'
            + (f' or [links."{name}"]' if name != role else "")
        )
    return DEFAULT_RATE_BPS[role]


def trace_of(scenario: Scenario, source: str, loop: bool | None, where: str, useful: tuple[str, ...]) -> Trace:
    """The trace of a key of the scenario, with at least one of the useful columns; `loop` None: as it says. Raises TraceError."""
    try:
        trace = load_trace(source, scenario.directory)
    except TraceFormatError as error:
        raise TraceError(f"{where}: {error}") from error
    if not any(column in trace.columns for column in useful):
        raise TraceError(f"{where}: trace {source!r} has {', '.join(trace.columns)}; needed here: {' or '.join(useful)}")
    return trace if loop is None else replace(trace, loop=loop)


def _over(state: LinkState, values: Mapping[str, float]) -> LinkState:
    return LinkState(
        rate_bps=values.get("rate_bps", state.rate_bps),
        delay_s=values.get("delay_s", state.delay_s),
        loss=values.get("loss", state.loss),
        jitter_s=state.jitter_s,
    )
