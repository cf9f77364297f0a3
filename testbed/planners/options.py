"""Reading `[planning.options]`: typed values, and an error that names the nearest known option.

A key may stand for all planners that know it (`sis = "off"`) or for one (`[planning.options.hpa]`, `sis = "off"`); the
second wins. What the options mean is in the planners' own files.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.errors import PlannerError
from testbed.planners.base import Problem


@dataclass(frozen=True, slots=True)
class Choice:
    """An option that takes one of a few words; the first is the default unless another is named."""

    words: tuple[str, ...]
    default: str

    def read(self, key: str, value: object) -> str:
        """The word. Raises PlannerError for any other."""
        if not isinstance(value, str) or value not in self.words:
            near = difflib.get_close_matches(str(value), self.words, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise PlannerError(f"[planning.options] {key}: {value!r} is not one of {', '.join(self.words)}{hint}")
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """An option that takes a number within bounds; whole numbers only where `whole` is set."""

    default: float
    low: float
    high: float
    whole: bool = False

    def read(self, key: str, value: object) -> float:
        """The number. Raises PlannerError for anything else, or outside the bounds."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise PlannerError(f"[planning.options] {key}: {value!r} is not a number from {self.low:g} to {self.high:g}")
        if self.whole and value != int(value):
            raise PlannerError(f"[planning.options] {key}: {value!r} is not a whole number")
        return float(value)


@dataclass(frozen=True, slots=True)
class ByHost:
    """An option that takes a table of numbers by host name, within bounds; it has to be in the planner's own table."""

    low: float
    high: float

    @property
    def default(self) -> dict[str, float]:
        """No host has a number."""
        return {}

    def read(self, key: str, value: object) -> dict[str, float]:
        """The numbers. Raises PlannerError for anything else, or outside the bounds."""
        if not isinstance(value, Mapping):
            raise PlannerError(f"[planning.options] {key}: expected a table of numbers by host, got {value!r}")
        return {str(host): Number(0.0, self.low, self.high).read(f"{key}.{host}", number) for host, number in value.items()}


Option = Choice | Number | ByHost

HPA_OPTIONS: dict[str, Option] = {
    "horizon": Choice(("rest", "vertex"), "rest"),
    "sis": Choice(("successor", "predecessor", "off"), "successor"),
    "candidates": Choice(("any", "next"), "any"),
    "guard": Choice(("on", "off"), "on"),
    "partial": Choice(("sweep", "wave"), "sweep"),
    "front": Number(0.125, 0.0, 1.0),
    "band_low": Number(0.0, 0.0, 1.0),
    "band_high": Number(0.0, 0.0, 1e6),
}
HPA_ALONE: dict[str, Option] = {
    **HPA_OPTIONS,
    "objective": Choice(("latency", "throughput"), "latency"),
}
"""Of `hpa` as a planner; `d3` uses HPA for D3's own objective only."""
VSM_OPTIONS: dict[str, Option] = {
    "shares": Choice(("speed", "equal"), "speed"),
    "grids": Choice(("all", "rows", "columns"), "all"),
    "max_hosts": Number(64.0, 1.0, 64.0, whole=True),
}
D3_OPTIONS: dict[str, Option] = {
    **HPA_OPTIONS,
    **VSM_OPTIONS,
    "edge_costs": Choice(("single", "tiled"), "single"),
}
TIER_PAIRS = ("device-cloud", "device-edge", "edge-cloud")
NEUROSURGEON_OPTIONS: dict[str, Option] = {
    "tiers": Choice(TIER_PAIRS, "device-cloud"),
    "neurosurgeon_objective": Choice(("latency", "energy"), "latency"),
    "neurosurgeon_graphs": Choice(("any", "chains"), "any"),
    "radio": Choice(("wifi", "4g", "3g"), "wifi"),
    "device_power_w": Number(0.0, 0.0, 1e4),
    "server_load": Number(1.0, 1e-3, 1e6),
}
DADS_OPTIONS: dict[str, Option] = {
    "tiers": Choice(TIER_PAIRS, "edge-cloud"),
    "load": Choice(("auto", "light", "heavy"), "auto"),
    "dsh_points": Number(16, 2, 10_000, whole=True),
    "dsh_shrink": Number(4, 2, 64, whole=True),
    "dsh_gain": Number(0.001, 0.0, 1.0),
}
RANDOM_OPTIONS: dict[str, Option] = {
    "random_seed": Number(0, 0, 2**53, whole=True),
    "random_draw": Choice(("cuts", "vertices"), "cuts"),
    "random_draws": Number(1, 1, 10_000, whole=True),
}
DINA_OPTIONS: dict[str, Option] = {
    "dina_pieces": Number(0, 0, 64, whole=True),
    "dina_quota": Number(0, 0, 64, whole=True),
    "dina_cloud": Choice(("off", "on"), "off"),
}
IONN_OPTIONS: dict[str, Option] = {
    "ionn_server": Choice(("cloud", "edge"), "cloud"),
    "ionn_k": Number(0.5, 0.01, 0.99),
}
EXACT_OPTIONS: dict[str, Option] = {
    "effort": Number(20.0, 0.0, 1e5),
}
OBJECTIVES = ("latency", "throughput", "critical-path")
"""What a planner may minimise: D3's sum of seconds, the busiest resource's seconds, or the seconds until the answer is there."""
OPTIMAL_OPTIONS: dict[str, Option] = {
    **EXACT_OPTIONS,
    "objective": Choice(OBJECTIVES, "latency"),
    "rate": Number(0.0, 0.0, 1e6),
}
CAPACITY_OPTIONS: dict[str, Option] = {
    **EXACT_OPTIONS,
    "exact_up_to": Number(250.0, 0.0, 1e6, whole=True),
}
TILER_OPTIONS: dict[str, Option] = {
    **{key: HPA_OPTIONS[key] for key in ("horizon", "sis", "candidates")},
    "edge_part": Choice(("whole", "hpa"), "whole"),
    "max_hosts": VSM_OPTIONS["max_hosts"],
}
MODNN_OPTIONS: dict[str, Option] = {**TILER_OPTIONS, "modnn_exchange": Choice(("borders", "maps"), "borders")}
AOFL_OPTIONS: dict[str, Option] = {
    **TILER_OPTIONS,
    "aofl_exchange": Choice(("maps", "borders"), "maps"),
    "aofl_alone": Choice(("off", "on"), "off"),
}
DEEPTHINGS_OPTIONS: dict[str, Option] = {
    **TILER_OPTIONS,
    "deepthings_depth": Number(16.0, 1.0, 10_000.0, whole=True),
    "deepthings_rows": Number(3.0, 1.0, 64.0, whole=True),
    "deepthings_columns": Number(3.0, 1.0, 64.0, whole=True),
    "stealing": Choice(("on", "off"), "on"),
    "reuse": Choice(("on", "off"), "on"),
}
COEDGE_OPTIONS: dict[str, Option] = {
    **TILER_OPTIONS,
    "coedge_objective": Choice(("latency", "energy"), "latency"),
    "coedge_deadline_s": Number(0.0, 0.0, 1e6),
    "compute_w": ByHost(0.0, 1e4),
    "transmit_w": ByHost(0.0, 1e4),
}
SPINN_OPTIONS: dict[str, Option] = {
    "server": Choice(("cloud", "edge"), "cloud"),
    "splits": Choice(("relu", "all"), "relu"),
    "deadline_ms": Number(0.0, 0.0, 1e7),
    "accuracy_loss": Number(1.0, 0.0, 100.0),
    "priority": Choice(("latency", "accuracy", "throughput", "server"), "latency"),
    "slack": Number(0.05, 0.0, 10.0),
    "timeout_ms": Number(1000.0, 0.0, 1e7),
    "coding": Choice(("int8-shuffle-deflate", "float32"), "int8-shuffle-deflate"),
}
EDGENT_OPTIONS: dict[str, Option] = {
    "server": Choice(("edge", "cloud"), "edge"),
    "deadline_ms": Number(1000.0, 0.0, 1e7),
}
DDNN_OPTIONS: dict[str, Option] = {
    "threshold": Number(0.8, 0.0, 1.0),
    "patience_ms": Number(200.0, 0.0, 1e7),
}
BUILT_IN: dict[str, dict[str, Option]] = {
    "device-only": {},
    "edge-only": {},
    "cloud-only": {},
    "hpa": HPA_ALONE,
    "d3": D3_OPTIONS,
    "optimal": OPTIMAL_OPTIONS,
    "optimal-tiles": VSM_OPTIONS,
    "spinn": SPINN_OPTIONS,
    "edgent": EDGENT_OPTIONS,
    "ddnn": DDNN_OPTIONS,
    "neurosurgeon": NEUROSURGEON_OPTIONS,
    "dads": DADS_OPTIONS,
    "qdmp": {"tiers": Choice(TIER_PAIRS, "edge-cloud")},
    "random": RANDOM_OPTIONS,
    "greedy": {},
    "ionn": IONN_OPTIONS,
    "modnn": MODNN_OPTIONS,
    "aofl": AOFL_OPTIONS,
    "deepthings": DEEPTHINGS_OPTIONS,
    "coedge": COEDGE_OPTIONS,
    "dina": DINA_OPTIONS,
    "ionn-all": {"ionn_server": IONN_OPTIONS["ionn_server"]},
    "exhaustive": {"objective": Choice(OBJECTIVES, "latency")},
    "capacitated": CAPACITY_OPTIONS,
    "optimal-throughput": {**EXACT_OPTIONS, "rate": OPTIMAL_OPTIONS["rate"]},
    "optimal-critical-path": EXACT_OPTIONS,
    "hpa-throughput": HPA_OPTIONS,
}
"""Planners of this package and the options that each one knows."""


def read(problem: Problem, planner: str, own: Mapping[str, Option] | None = None) -> dict[str, Any]:
    """Values of all options of one planner, defaults filled in.

    `own` is for planners from elsewhere; built-in ones are looked up. An option of another built-in planner is passed
    over (one scenario may run several). Raises PlannerError for an option that nobody knows, or a value out of range.
    """
    known = BUILT_IN[planner] if own is None else own
    values: dict[str, Any] = {key: option.default for key, option in known.items()}
    if not problem.options:
        return values
    everybody = {key for options in BUILT_IN.values() for key in options} | set(known)
    for key, value in problem.options.items():
        if isinstance(value, Mapping):
            _check_table(key, planner)
        elif key in BUILT_IN:
            raise PlannerError(f"[planning.options] {key}: expected a table of that planner's options, got {value!r}")
        elif key in known:
            values[key] = known[key].read(key, value)
        elif key not in everybody:
            raise PlannerError(_unknown(key, everybody | set(BUILT_IN), "no planner has the option"))
    table = problem.options.get(planner, {})
    for key, value in table.items() if isinstance(table, Mapping) else ():
        if key not in known:
            raise PlannerError(_unknown(key, known, f"planner {planner!r} has no option"))
        values[key] = known[key].read(f"{planner}.{key}", value)
    return values


def _check_table(name: str, planner: str) -> None:
    """A table for a planner from elsewhere is its own business, but a misspelt built-in name is not."""
    if name not in BUILT_IN and name != planner and (near := difflib.get_close_matches(name, BUILT_IN, n=1, cutoff=0.75)):
        raise PlannerError(f"[planning.options.{name}]: no such planner; did you mean {near[0]!r}?")


def _unknown(key: str, known: Mapping[str, Any] | set[str], what: str) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.3)
    names = ", ".join(sorted(known)) or "none"
    return f"[planning.options] {what} {key!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {names}")
