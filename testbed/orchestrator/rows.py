"""From a request that is over to its row in inferences.csv, in the order of `columns.INFERENCES`."""

from __future__ import annotations

from testbed.orchestrator.account import Figures
from testbed.orchestrator.results import seconds
from testbed.orchestrator.tracker import Request
from testbed.orchestrator.verify import Class, Verdict


def inference(
    model: str,
    planner: str,
    request: Request,
    start: float,
    figures: Figures,
    verdict: Verdict | None,
    told: Class,
    recovery: bool = False,
) -> list[object]:
    """The row; `start` is the loop time of scenario second 0. With `recovery` those of `columns.RECOVERED` follow."""
    plan, number = request.epoch.plan, request.exit
    return [
        model,
        planner,
        request.device,
        request.number,
        "true" if request.warmup else "false",
        request.listed,
        request.input,
        seconds(request.due_at - start),
        seconds(request.submitted_at - start),
        "" if request.error else seconds(request.done_at - request.submitted_at),
        seconds(figures.queue_s),
        seconds(figures.compute_s["device"]),
        seconds(figures.compute_s["edge"]),
        seconds(figures.compute_s["cloud"]),
        seconds(figures.transfer_access_s),
        seconds(figures.transfer_lan_s),
        seconds(figures.transfer_backbone_s),
        seconds(figures.transfer_return_s),
        figures.access_bytes,
        figures.lan_bytes,
        figures.backbone_bytes,
        request.weights_bytes,
        seconds(figures.overrun_s),
        " ".join(f"{host}:{count}" for host, count in sorted(figures.tiles.items())),
        "" if verdict is None else "true" if verdict.correct else "false",
        "" if verdict is None else f"{verdict.max_rel_error:.3e}",
        "" if number is None else number,
        "" if number is None else _truth(plan.exits[number].local),
        "" if number is None else _truth(request.fallback),
        "" if number is None else len(request.absent),
        "" if plan.lossless or request.error else _truth(told.agrees),
        "" if told.label is None else told.label,
        "" if request.error else _truth(told.right),
        request.error,
        request.error_text,
        *((request.recoveries, seconds(request.recovered_s) if request.recoveries else "") if recovery else ()),
    ]


def _truth(value: bool | None) -> str:
    return "" if value is None else "true" if value else "false"
