"""Figures of an agent since its start, as the answer to `stats`.

| field                                | meaning                                                                        |
|--------------------------------------|--------------------------------------------------------------------------------|
| done, failed                         | requests of this device that ended so                                          |
| served, dropped                      | requests that this host did its part of for a device, or gave up               |
| active, queued, parked               | requests held, computations running and waiting, messages waiting for a plan   |
| waiting                              | requests that wait for room on a host of a higher tier                         |
| kept, kept_bytes                     | requests of which tensors are kept, to go on from (`d3node.kept`), and bytes   |
| epochs                               | numbers of the installed epochs                                                |
| bytes_sent, bytes_received           | frames on the data plane, handshakes left out                                  |
| computes, busy_s                     | computations, and the seconds that they took                                   |
| overruns, overrun_s, max_overrun_s   | real work that took longer than modelled                                       |
| lag_p99_s, lag_max_s                 | lateness of the event loop's timers (None before the first)                    |
| resident_bytes                       | memory of the process                                                          |
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from typing import Any

from d3node.compute import ComputeQueue
from d3node.requests import Requests


def gather(requests: Requests, compute: ComputeQueue, bytes_sent: int, bytes_received: int) -> dict[str, Any]:
    """The figures of the table above."""
    totals, work = requests.totals, compute.totals
    return {
        "done": totals.done,
        "failed": totals.failed,
        "served": totals.served,
        "dropped": totals.dropped,
        "active": requests.active,
        "queued": compute.length,
        "parked": requests.parked,
        "waiting": len(requests.windows),
        "kept": len(requests.kept),
        "kept_bytes": requests.kept.nbytes,
        "epochs": sorted(requests.epochs),
        "bytes_sent": bytes_sent,
        "bytes_received": bytes_received,
        "computes": work.jobs,
        "busy_s": work.busy_s,
        "overruns": work.overruns,
        "overrun_s": work.overrun_s,
        "max_overrun_s": work.max_overrun_s,
        "lag_p99_s": quantile(work.late_s, 0.99),
        "lag_max_s": max(work.late_s, default=None),
        "resident_bytes": resident_bytes(),
    }


def quantile(samples: Iterable[float], share: float) -> float | None:
    """The smallest sample that `share` of all samples do not exceed; None without samples."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def resident_bytes() -> int:
    """Memory of this process that is in RAM (its peak where the system does not tell the present figure)."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
