"""From the reports of a request's hosts to its rows in steps.csv, in the order of `columns.STEPS`: who did what, and when.

The same records, summed up, are a row of inferences.csv (`account.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from testbed.orchestrator.account import Ledger
from testbed.orchestrator.results import seconds
from testbed.orchestrator.tracker import Request


def of_request(model: str, planner: str, request: Request, start: float, ledger: Ledger) -> Iterator[list[object]]:
    """A row for every computation and every message of a request that is over, host by host; `start` is the loop time of
    scenario second 0."""
    named = (model, planner, request.device, request.number, "true" if request.warmup else "false", request.epoch.number)
    for report in request.reports:
        host = report["host"]
        tier = ledger.tier(host)
        for record in report["records"]:
            times = (seconds(record["start"] - start), seconds(record["end"] - start))
            where = (record.get("stack", ""), record.get("tile", ""))
            if record["what"] == "compute":
                vertices = ranges(record["vertices"])
                yield [*named, "compute", host, tier, "", "", "", vertices, *where, *times, seconds(record["queued_s"]), ""]
                continue
            peer = record["peer"]
            leg, vertex = ledger.route(peer, host).leg, record.get("vertex", "")
            yield [*named, "transfer", host, tier, peer, leg, record["kind"], vertex, *where, *times, "", record["bytes"]]


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in few words: 1, 2, 3, 7 is "1-3 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
