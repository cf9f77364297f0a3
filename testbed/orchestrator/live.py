"""What those who watch a run are told beside the journal's events: states of links and hosts as they change, and of each request
that is over who worked when, and what crossed which link. Nothing of it is written to the run folder, where it stands in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.costs.network import frame_bytes
from testbed.orchestrator.account import Ledger
from testbed.orchestrator.journal import Journal
from testbed.orchestrator.replay import Step
from testbed.orchestrator.tracker import Request
from topologies.layout import Layout


def stage(layout: Layout) -> dict[str, Any]:
    """The network: hosts with their tiers, links with their roles."""
    return {
        "hosts": {host.name: host.tier for host in layout.hosts},
        "links": {link.name: link.role for link in layout.links},
    }


def tell_step(journal: Journal, step: Step) -> None:
    """A link direction or a host has a new state, or the one that it begins with."""
    if step.state is not None:
        state = {"rate_bps": step.state.rate_bps, "delay_s": step.state.delay_s, "loss": step.state.loss}
        journal.live("link", link=step.name, direction=step.direction, at_s=step.at_s, **state)
    else:
        journal.live("host", host=step.name, at_s=step.at_s, cpu_share=step.share)


def request(over: Request, start: float, ledger: Ledger, flying: int) -> dict[str, Any]:
    """Of a request that is over; `start` is the loop time of scenario second 0.

    `work`: host, start, end and waiting time of every computation; `sent`: link, direction, start, end and framed bytes of every
    message, link by link. Times are scenario seconds.
    """
    work: list[list[Any]] = []
    sent: list[list[Any]] = []
    for report in over.reports:
        host = report["host"]
        for record in report["records"]:
            begun, ended = record["start"] - start, record["end"] - start
            if record["what"] == "compute":
                work.append([host, begun, ended, record["queued_s"]])
                continue
            framed = frame_bytes(record["bytes"])
            for link, direction in ledger.route(record["peer"], host).links:
                sent.append([link, direction, begun, ended, framed])
    return {
        "at_s": over.done_at - start,
        "device": over.device,
        "request": over.number,
        "warmup": over.warmup,
        "epoch": over.listed,
        "latency_s": None if over.error else over.done_at - over.submitted_at,
        "error": over.error,
        "flying": flying,
        "work": work,
        "sent": sent,
    }


def shape(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan in few figures: vertices by tier (the input left out), those that are tiled, and over which hosts."""
    tiers = plan["tiers"][1:]
    hosts = {tile["host"] for stack in plan["stacks"] for tile in stack["tiles"]}
    return {
        "tiers": {tier: tiers.count(tier) for tier in ("device", "edge", "cloud")},
        "tiled": sum(len(stack["vertices"]) for stack in plan["stacks"]),
        "tile_hosts": sorted(hosts),
    }
