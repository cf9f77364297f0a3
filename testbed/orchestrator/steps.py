"""From the reports of a request's hosts to its rows in steps.csv, in the order of `columns.STEPS`: who did what, and when.

The same records, summed up, are a row of inferences.csv (`account.py`).
"""

from __future__ import annotations

import csv
import io
from functools import lru_cache

from testbed.orchestrator.account import Ledger
from testbed.orchestrator.tracker import Request


def of_request(model: str, planner: str, request: Request, start: float, ledger: Ledger) -> str:
    """A line of CSV for every computation and every message of a request that is over, host by host; `start` is the loop time
    of scenario second 0. There may be hundreds: only names of models and planners can need quotes, the rest is plain text."""
    warmup = "true" if request.warmup else "false"
    head = f"{_quoted(model, planner, request.device)},{request.number},{warmup},{request.listed}"
    lines = []
    for report in request.reports:
        host = report["host"]
        where = f"{host},{ledger.tier(host)}"
        for record in report["records"]:
            place = f"{record['stack']},{record.get('tile', '')}" if "stack" in record else ","
            times = f"{record['start'] - start:.9f},{record['end'] - start:.9f}"
            if record["what"] == "compute":
                vertices, queued_s = ranges(tuple(record["vertices"])), record["queued_s"]
                lines.append(f"{head},compute,{where},,,,{vertices},{place},{times},{queued_s:.9f},\n")
                continue
            peer, vertex = record["peer"], record.get("vertex", "")
            leg = ledger.route(peer, host).leg
            lines.append(f"{head},transfer,{where},{peer},{leg},{record['kind']},{vertex},{place},{times},,{record['bytes']}\n")
    return "".join(lines)


@lru_cache(maxsize=4096)
def ranges(numbers: tuple[int, ...]) -> str:
    """Ascending numbers in few words: 1, 2, 3, 7 is "1-3 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


@lru_cache(maxsize=4096)
def _quoted(*values: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()
