"""Scenarios of every kind that the testbed offers, drawn from a seed, with as much wrong in them as in `chaos.draw`'s.

Here also planners that upload weights, networks with exits and several views, coded tensors, several sites, matchings of devices
and hosts, overload, limits of memory, traces, and all ways of planning again.
"""

from __future__ import annotations

from random import Random
from typing import Any

from chaos import DEADLINE_S, fault
from conformance.scenario import MODEL
from orchestration import SMALL

from testbed import registry
from testbed.orchestrator.world import prepare
from testbed.report.forecast import Refusal, forecasts
from testbed.scenario.schema import Scenario

PLAIN = tuple(
    sorted(set(registry.planners()) - {"spinn", "edgent", "ddnn", "ionn", "ionn-all", "dina", "exhaustive"}),
)
"""Planners that any network and any number of devices will do for."""

KINDS = ("plain", "plain", "uploads", "uploads", "exits", "views", "sites", "matching", "overload", "memory")


def draw(seed: int, *, tensors: str, requests: int, netem: bool = True, lasts_s: float = 12.0) -> Scenario:
    """As `chaos.draw`: about so many measured requests in each session of about `lasts_s`. Drawn again where some planner has no
    plan to begin with: no exit is in time, no host has the memory."""
    for attempt in range(100):
        scenario = _drawn(Random(f"every kind {seed} {attempt}"), seed, tensors, requests, netem, lasts_s)
        refusals: list[Refusal] = []
        if scenario.name.split("-")[1] in ("exits", "memory"):
            for _ in forecasts(prepare(scenario), refusals=refusals):
                pass
        if not refusals:
            return scenario
    raise AssertionError(f"seed {seed}: no plans in a hundred scenarios")


def _drawn(random: Random, seed: int, tensors: str, requests: int, netem: bool, lasts_s: float) -> Scenario:
    kind = random.choice(KINDS)
    raw = _common(random, tensors, netem)
    raw |= {"name": f"chaos-{kind}-{seed}", "seed": seed}
    {
        "plain": _plain,
        "uploads": _uploads,
        "exits": _exits,
        "views": _views,
        "sites": _sites,
        "matching": _matching,
        "overload": _plain,
        "memory": _memory,
    }[kind](random, raw)
    topology, route = raw["topology"], raw["network"]["route"]
    if topology.get("name", "three_tier") == "three_tier" and route == "direct" and random.random() < 0.5:
        topology["cellular"] = True
        raw["links"]["cellular"] = {"rate": "4 Mbit/s", "delay": raw["links"]["backbone"]["delay"]}
    devices = raw["requests"].get("origins") or topology["devices"]
    devices *= topology.get("sites", 1 if topology.get("name", "three_tier") == "three_tier" else 2)
    count = max(1, requests // devices)
    _load(random, raw, count, lasts_s, overloaded=kind == "overload")
    layout = registry.layout(Scenario.model_validate(raw).topology)
    raw["fault"] = [fault(random, layout, count, lasts_s, netem) for _ in range(random.randint(1, 8))]
    if kind == "uploads" and random.random() < 0.5:  # the host that matters
        raw["fault"].append(_of_the_server(random, raw, lasts_s))
    return Scenario.model_validate(raw)


def _common(random: Random, tensors: str, netem: bool) -> dict[str, Any]:
    """What every kind has: links, hosts, a way to plan again, and one to recover."""
    delay = random.choice((0, 2, 20)) if netem else 0
    links: dict[str, dict[str, Any]] = {
        "access": {"rate": f"{10 ** random.uniform(0.0, 1.7):.2f} Mbit/s", "delay": f"{delay / 4} ms"},
        "lan": {"rate": "100 Mbit/s"},
        "backbone": {"rate": f"{random.uniform(1, 10):.1f} Mbit/s", "delay": f"{delay} ms"},
    }
    if random.random() < 0.2:
        links["backbone"] = {"trace": random.choice(("lte-like", "3g")), "trace_direction": "up", "rate_down": "8 Mbit/s"}
        links["backbone"] |= {"trace_offset": f"{random.randint(0, 40)} s", "trace_loop": True, "delay": f"{delay} ms"}
    if netem and random.random() < 0.2:
        links["access"]["loss"] = random.choice((0.001, 0.02))
    if tensors == "sizes" and random.random() < 0.2:  # over a kernel, what it drops is held against a run
        links["backbone"]["queue"] = random.choice(("8 kB", "64 kB", "1 MB"))
    hosts: dict[str, dict[str, Any]] = {tier: {"speed": 10 ** random.uniform(-3.0, 0.0)} for tier in ("device", "edge", "cloud")}
    if random.random() < 0.2:
        hosts["edge"]["trace"] = "busy-edge"
    planning: dict[str, Any] = {"interval": random.choice(("0.1 s", "0.2 s", "1 s")), "options": {}}
    planning["replan"] = random.choice(("partial", "partial", "full", "never"))
    planning["knowledge"] = random.choice(("estimated", "estimated", "true"))
    planning["detector"] = random.choice(("band", "band", "cusum"))
    planning["hysteresis"] = random.choice((0.0, 0.0, 0.2))
    planning["plan_cache"] = random.choice((0, 0, 8))
    planning["samples"] = random.choice((1, 2))
    if random.random() < 0.6:
        size, interval = random.choice(("1 kB", "4 kB", "64 kB")), random.choice(("0.2 s", "0.5 s", "2 s"))
        planning |= {"probe_interval": interval, "probe_size": size}
    heartbeat, detect = random.choice(((0.2, 0.6), (0.2, 0.6), (0.1, 0.3), (0.5, 2.0)))
    recovery: dict[str, Any] = {"mode": random.choice(("resume", "resume", "restart")), "attempts": random.choice((1, 3, 5))}
    return {
        "model": {"names": [MODEL], "input_encoding": random.choice(("float32", "float32", "uint8"))},
        "topology": {"devices": random.choice((1, 2, 3)), "edges": random.choice((1, 2, 3, 4))},
        "links": links,
        "hosts": hosts,
        "compute": {"tensors": tensors},
        "network": {"route": random.choice(("relay", "direct"))},
        "planning": planning,
        "recovery": {**recovery, "heartbeat": f"{heartbeat} s", "detect": f"{detect} s"},
        "requests": {"deadline": f"{DEADLINE_S:g} s"},
    }


def _load(random: Random, raw: dict[str, Any], count: int, lasts_s: float, overloaded: bool) -> None:
    table = raw["requests"]
    arrival = random.choice(("fixed", "poisson", "closed") if overloaded else ("closed", "closed", "fixed", "poisson"))
    table |= {"count": count, "arrival": arrival, "distinct_inputs": 3, "warmup": random.choice((0, 1, 2))}
    if arrival == "closed":
        table["think_time"] = f"{0.0 if overloaded else 0.6 * lasts_s / count:.4f} s"
    else:
        table["rate"] = f"{count / (lasts_s * (0.1 if overloaded else 1.0)):.4f} /s"
    if overloaded or random.random() < 0.2:
        table["queue"] = random.choice((1, 2, 8))
    if overloaded or random.random() < 0.1:
        for tier in random.sample(("device", "edge", "cloud"), random.randint(1, 3)):
            raw["hosts"][tier]["in_flight"] = random.choice((1, 2, 5))


def _two(random: Random, names: tuple[str, ...]) -> list[str]:
    return sorted({random.choice(names) for _ in range(2)})


def _plain(random: Random, raw: dict[str, Any]) -> None:
    raw["model"]["names"] = [random.choice((MODEL, MODEL, SMALL))]
    raw["planning"]["planners"] = _two(random, (*PLAIN, "exhaustive") if MODEL in raw["model"]["names"] else PLAIN)
    options = raw["planning"]["options"]
    if random.random() < 0.5:
        options["deepthings"] = {"stealing": random.choice(("on", "off")), "reuse": random.choice(("on", "off"))}
    if random.random() < 0.3:
        options["modnn"] = {"modnn_exchange": random.choice(("borders", "maps"))}
    if random.random() < 0.3:
        options["aofl"] = {"aofl_exchange": random.choice(("borders", "maps"))}


def _uploads(random: Random, raw: dict[str, Any]) -> None:
    """One client; its uploads take from a moment to longer than the session."""
    raw["topology"]["devices"] = 1
    raw["model"]["names"] = [random.choice((MODEL, SMALL, "alexnet") if raw["compute"]["tensors"] == "sizes" else (MODEL, SMALL))]
    raw["planning"]["planners"] = [*_two(random, ("ionn", "ionn-all")), random.choice(PLAIN)]
    raw["planning"]["options"] = {
        "ionn_server": random.choice(("cloud", "edge")),
        "ionn": {"ionn_k": random.choice((0.1, 0.5, 0.9))},
    }
    raw["links"]["access"]["rate"] = f"{10 ** random.uniform(-1.5, 1.5):.3f} Mbit/s"
    raw["hosts"]["device"]["speed"] = 10 ** random.uniform(-2.5, -1.0) * (30 if "alexnet" in raw["model"]["names"] else 1)


def _exits(random: Random, raw: dict[str, Any]) -> None:
    raw["model"]["names"] = ["digits-exits"]
    raw["planning"]["planners"] = [*_two(random, ("spinn", "edgent")), random.choice(("cloud-only", "d3"))]
    raw["planning"]["options"] = {
        "edgent": {"deadline_ms": random.choice((10, 100, 1000)), "server": random.choice(("edge", "cloud"))},
        "spinn": {
            "server": random.choice(("edge", "cloud")),
            "splits": random.choice(("relu", "all")),
            "coding": random.choice(("int8-shuffle-deflate", "float32")),
            "priority": random.choice(("latency", "accuracy", "throughput", "server")),
            "accuracy_loss": random.choice((1.0, 5.0)),
            "timeout_ms": random.choice((0.0, 100.0, 1000.0)),
        },
    }


def _views(random: Random, raw: dict[str, Any]) -> None:
    """Four devices see one thing; one of them asks, or all do."""
    raw["model"]["names"] = ["digits-views"]
    raw["topology"] = {"devices": 4, "edges": random.choice((1, 2, 3))}
    raw["requests"]["origins"] = random.choice((1, 1, 4))
    raw["planning"]["planners"] = ["ddnn", random.choice(("cloud-only", "hpa"))]
    raw["planning"]["options"] = {
        "ddnn": {"threshold": random.choice((0.2, 0.5, 0.8)), "patience_ms": random.choice((0.0, 50.0, 200.0, 1000.0))}
    }


def _sites(random: Random, raw: dict[str, Any]) -> None:
    """Several sites with one cloud."""
    name = random.choice(("fleet", "two_sites"))
    raw["topology"] = {"name": name, "devices": random.choice((1, 2)), "edges": random.choice((1, 2, 3))}
    if name == "fleet":
        raw["topology"]["sites"] = random.choice((1, 2, 3))
        raw["links"]["core"] = {"rate": "1 Gbit/s"}
    raw["planning"]["planners"] = _two(random, (*PLAIN, "dina"))


def _matching(random: Random, raw: dict[str, Any]) -> None:
    raw["topology"] = {"devices": random.choice((2, 3, 4)), "edges": random.choice((1, 2, 3, 4))}
    raw["planning"]["planners"] = ["dina", random.choice(PLAIN)]
    raw["planning"]["options"] = {"dina": {"dina_cloud": random.choice(("on", "off")), "dina_pieces": random.choice((0, 2))}}


def _memory(random: Random, raw: dict[str, Any]) -> None:
    """Some host is too small for the whole model, perhaps."""
    raw["planning"]["planners"] = ["capacitated", "optimal"]
    for tier in random.sample(("device", "edge"), random.randint(1, 2)):
        raw["hosts"][tier]["memory"] = random.choice(("40 kB", "100 kB", "1 MB"))


def _of_the_server(random: Random, raw: dict[str, Any], lasts_s: float) -> dict[str, Any]:
    server = "c1" if raw["planning"]["options"]["ionn_server"] == "cloud" else "e1"
    found = {"kind": random.choice(("kill", "hang")), "host": server, "at": f"{random.uniform(0.0, lasts_s):.3f} s"}
    return {**found, "for": f"{random.uniform(0.05, 3.0):.3f} s"}
