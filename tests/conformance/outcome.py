"""One request in a session, in what must be the same in every backend: the answer's bytes, and message bytes by host."""

from __future__ import annotations

from dataclasses import dataclass

from conformance.scenario import MODEL, installed, plan
from conformance.sessions import PATIENCE_S, Tolerance, fleet_of, until
from d3node.channel import Message
from d3node.model import ModelSpec, load_graph
from testbed.backends.base import Session
from testbed.scenario.schema import Scenario


@dataclass(frozen=True)
class Outcome:
    """What a request came to, in what must not depend on the backend: the answer's bytes, and message bytes by host."""

    answer: tuple[bytes, ...]
    whole: tuple[bytes, ...]
    sent: dict[str, int]
    received: dict[str, int]
    transfers: tuple[tuple[str, str, str, int], ...]


async def outcome_of_one_request(session: Session, tolerance: Tolerance, asked: Scenario | None = None) -> Outcome:
    """One request from a device over two tiling edge hosts to the cloud and back, and the whole model's answer to it."""
    graph = load_graph(ModelSpec(MODEL))
    async with fleet_of(session, asked) as fleet:
        hosts = ("c1", "e2", "e1", "d1")
        await fleet.call_all(hosts, "install", {host: installed(graph, plan(graph), 0.05) for host in hosts})
        whole = await fleet.clients["c1"].call("whole", {"model": MODEL, "input": 3})
        await fleet.clients["d1"].send("submit", {"request": 1, "epoch": 1, "input": 3, "deadline_s": PATIENCE_S})
        pushed: list[tuple[str, Message]] = fleet.pushed  # type: ignore[attr-defined]
        await until(lambda: len([1 for _, m in pushed if m.kind in ("report", "done", "failed")]) >= len(hosts) + 1, PATIENCE_S)
    ends = [(host, message) for host, message in pushed if message.kind in ("done", "failed")]
    assert [(host, message.kind) for host, message in ends] == [("d1", "done")], ends
    done = ends[0][1]
    assert done.fields["done_at"] - done.fields["submitted_at"] > 0.1  # a tile and a step of 0.05 s each
    reports = {message.fields["host"]: message.fields for _, message in pushed if message.kind == "report"}
    assert set(reports) == set(hosts)
    transfers = sorted(
        (record["peer"], host, record["kind"], record["bytes"])
        for host, report in reports.items()
        for record in report["records"]
        if record["what"] == "transfer"
    )
    return Outcome(
        answer=tuple(bytes(payload.data or b"") for payload in done.payloads),
        whole=tuple(bytes(payload.data or b"") for payload in whole.payloads),
        sent={host: report["bytes_sent"] for host, report in sorted(reports.items())},
        received={host: report["bytes_received"] for host, report in sorted(reports.items())},
        transfers=tuple(transfers),
    )


def judge(outcome: Outcome) -> None:
    """What must hold of any outcome."""
    import torch

    (answer,), (whole,) = outcome.answer, outcome.whole
    torch.testing.assert_close(
        *(torch.frombuffer(bytearray(data), dtype=torch.float32) for data in (answer, whole)), rtol=1e-5, atol=1e-5
    )
    assert sum(outcome.sent.values()) == sum(outcome.received.values()) == sum(size for *_, size in outcome.transfers)
    assert [transfer[:3] for transfer in outcome.transfers] == [
        ("c1", "d1", "answer"),
        ("d1", "e1", "tensor"),
        ("e1", "c1", "tensor"),
        ("e1", "e2", "tile"),
        ("e2", "e1", "tile_done"),
    ]
